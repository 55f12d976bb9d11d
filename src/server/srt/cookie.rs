//! Cookies: a caller that sends one back receives what is sent to its address, and nothing had to be
//! remembered to know that (draft-sharabayko-srt-01, 4.3.1.1).

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// For how long the same cookie is given out. It is good for one period more.
const PERIOD: Duration = Duration::from_secs(60);

/// Makes and checks cookies.
#[derive(Debug, Clone)]
pub struct Cookies {
    mac: Hmac<Sha256>,
    started: Instant,
}

impl Cookies {
    /// Cookies that nobody can make without `secret`.
    pub fn new(secret: &[u8; 64], now: Instant) -> Self {
        Self { mac: Hmac::new(secret.into()), started: now }
    }

    /// The cookie for a caller at `peer`; never 0, which is what a caller sends that has none.
    pub fn make(&self, peer: SocketAddr, now: Instant) -> u32 {
        self.of_period(peer, self.period(now))
    }

    /// Whether a caller at `peer` was given `cookie`, in this period or the one before.
    pub fn check(&self, cookie: u32, peer: SocketAddr, now: Instant) -> bool {
        let period = self.period(now);
        let before = period.checked_sub(1);
        [Some(period), before].into_iter().flatten().any(|period| self.of_period(peer, period) == cookie)
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / PERIOD.as_secs()
    }

    fn of_period(&self, peer: SocketAddr, period: u64) -> u32 {
        let mut mac = self.mac.clone();
        match peer.ip() {
            IpAddr::V4(v4) => mac.update(&v4.octets()),
            IpAddr::V6(v6) => mac.update(&v6.octets()),
        }
        mac.update(&peer.port().to_be_bytes());
        mac.update(&period.to_be_bytes());
        let [a, b, c, d, ..] = <[u8; 32]>::from(mac.finalize().into_bytes());
        u32::from_be_bytes([a, b, c, d]).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_cookie_is_good_for_its_own_period_and_the_next() {
        let start = Instant::now();
        let cookies = Cookies::new(&[7; 64], start);
        let a = peer("10.0.0.1:5000");
        for (made, good_until) in [(0, 119), (59, 119), (60, 179), (600, 719)] {
            let at = |seconds| start + Duration::from_secs(seconds);
            let cookie = cookies.make(a, at(made));
            assert!(cookies.check(cookie, a, at(made)));
            assert!(cookies.check(cookie, a, at(good_until)));
            assert!(!cookies.check(cookie, a, at(good_until + 1)));
        }
    }

    #[test]
    fn a_cookie_is_of_no_use_at_another_address_or_port_or_with_another_secret() {
        let now = Instant::now();
        let cookies = Cookies::new(&[7; 64], now);
        let a = peer("10.0.0.1:5000");
        let cookie = cookies.make(a, now);
        assert!(!cookies.check(cookie, peer("10.0.0.2:5000"), now));
        assert!(!cookies.check(cookie, peer("10.0.0.1:5001"), now));
        assert!(!cookies.check(cookie, peer("[2001:db8::1]:5000"), now));
        assert!(!Cookies::new(&[8; 64], now).check(cookie, a, now));
        assert!(!cookies.check(0, a, now), "a caller that has none");
    }
}
