//! Under which addresses a client is told to reach this node's media.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::future::join_all;

use crate::{log_throttle::LogThrottle, relay::dial::Dialer};

/// How long the lookup of a name may take.
const LOOKUP: Duration = Duration::from_secs(2);
/// How often it is logged that a name cannot be looked up.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);
/// How many names that is remembered of.
const MAX_NAMES: usize = 16;

/// Looks the configured names up.
pub(super) struct Names {
    dialer: Dialer,
    complaints: LogThrottle<String>,
}

impl Names {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer, complaints: LogThrottle::new(COMPLAINT_PERIOD, MAX_NAMES) }
    }

    /// The addresses that `names`, which may be addresses, stand for, in their order. A name that cannot
    /// be looked up stands for none.
    pub(super) async fn addresses(&self, names: &[String]) -> Vec<IpAddr> {
        join_all(names.iter().map(|name| self.look_up(name))).await.concat()
    }

    async fn look_up(&self, name: &str) -> Vec<IpAddr> {
        let error = match self.dialer.lookup(name, LOOKUP).await {
            Ok(addresses) => return addresses,
            Err(error) => error,
        };
        if let Some(held_back) = self.complaints.admit(&name.to_owned()) {
            tracing::warn!(
                name,
                error = error.message(),
                held_back,
                "PROXY_WEBRTC_CANDIDATE: a name cannot be looked up"
            );
        }
        Vec::new()
    }
}

/// Where the addresses come from, in the order of their rank.
pub(super) struct Sources<'a> {
    /// What the client asks for itself, `IP` or `IP:PORT` (`?eip=`).
    pub asked_for: Option<&'a str>,
    /// What the configuration names.
    pub configured: Vec<IpAddr>,
    /// Where media arrive, which may be every address of the machine.
    pub media: SocketAddr,
    /// The host by which the client has reached the signalling, with or without a port.
    pub host: &'a str,
    /// The address at which the client has reached the signalling.
    pub reached: Option<IpAddr>,
}

impl Sources<'_> {
    /// The addresses without repeats, the most wanted first. None is unspecified.
    pub(super) fn addresses(self) -> Vec<SocketAddr> {
        let Self { asked_for, configured, media, host, reached } = self;
        let port = media.port();
        let asked_for = asked_for.and_then(|text| address(text, port));
        let only = Some(media.ip()).filter(|ip| !ip.is_unspecified());
        let reached = only.or_else(|| address(host, port).map(|address| address.ip())).or(reached);
        let others = configured.into_iter().chain(reached).map(|ip| SocketAddr::new(ip, port));
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in asked_for.into_iter().chain(others) {
            if !address.ip().is_unspecified() && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}

/// `IP` or `IP:PORT`, with or without brackets around IPv6.
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = match bare.parse() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => text.parse().ok()?,
    };
    (address.port() != 0).then(|| SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources<'static> {
        let (media, reached) = (([0, 0, 0, 0], 8000).into(), Some([127, 0, 0, 1].into()));
        Sources { asked_for: None, configured: Vec::new(), media, host: "proxy.example:80", reached }
    }

    fn addresses(sources: Sources<'_>) -> Vec<String> {
        sources.addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_address_on_which_the_client_reached_the_signalling_is_the_one_that_it_named_or_else_used() {
        for (host, expected) in [
            ("proxy.example:80", "127.0.0.1:8000"),
            ("", "127.0.0.1:8000"),
            ("192.0.2.1", "192.0.2.1:8000"),
            ("192.0.2.1:1985", "192.0.2.1:8000"),
            ("[2001:db8::1]", "[2001:db8::1]:8000"),
            ("[2001:db8::1]:1985", "[2001:db8::1]:8000"),
            ("[::ffff:192.0.2.1]:1985", "192.0.2.1:8000"),
            ("[fe80::1%eth0]", "127.0.0.1:8000"),
        ] {
            assert_eq!(addresses(Sources { host, ..sources() }), [expected], "{host}");
        }
        let media = ([192, 0, 2, 9], 8000).into();
        assert_eq!(addresses(Sources { media, host: "192.0.2.1", ..sources() }), ["192.0.2.9:8000"]);
    }

    #[test]
    fn what_the_client_asks_for_comes_first_with_its_own_port_then_what_is_configured() {
        let configured = || vec![[192, 0, 2, 2].into(), [192, 0, 2, 3].into(), [192, 0, 2, 2].into()];
        for (asked_for, expected) in [
            ("192.0.2.1", "192.0.2.1:8000"),
            ("192.0.2.1:9000", "192.0.2.1:9000"),
            ("2001:db8::1", "[2001:db8::1]:8000"),
            ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
            ("192.0.2.2:9000", "192.0.2.2:9000"),
        ] {
            let list = addresses(Sources { asked_for: Some(asked_for), configured: configured(), ..sources() });
            assert_eq!(list, [expected, "192.0.2.2:8000", "192.0.2.3:8000", "127.0.0.1:8000"], "{asked_for}");
        }
        for asked_for in ["", "proxy.example", "192.0.2.1:0", "192.0.2.1:x", "300.1.1.1", "0.0.0.0", "[::]:80"] {
            let list = addresses(Sources { asked_for: Some(asked_for), ..sources() });
            assert_eq!(list, ["127.0.0.1:8000"], "{asked_for}");
        }
        assert_eq!(addresses(Sources { configured: configured(), reached: None, ..sources() }).len(), 2);
    }

    #[test]
    fn an_address_that_means_all_of_them_is_never_told() {
        let unspecified = || Some(IpAddr::from([0, 0, 0, 0]));
        let list = Sources { configured: vec![[0; 16].into()], ..sources() };
        assert_eq!(addresses(list), ["127.0.0.1:8000"]);
        assert_eq!(addresses(Sources { reached: unspecified(), ..sources() }), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_looked_up_is_left_out() {
        let names = Names::new(Dialer::default());
        let list = ["192.0.2.1", "nowhere.invalid", "2001:db8::1"].map(str::to_owned);
        let expected: [IpAddr; 2] = [[192, 0, 2, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()];
        assert_eq!(names.addresses(&list).await, expected);
        assert!(names.addresses(&["localhost".to_owned()]).await.iter().all(IpAddr::is_loopback));
    }
}
