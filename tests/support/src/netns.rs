//! Network namespaces with a node each, two networks between them, and a hub that is in both.
//!
//! The hub is where origins, clients and the test itself live ([`Network::enter`]). Every node has
//! an address on the `edge`, where clients come from, and one on the `mesh`, where nodes talk to
//! each other. The mesh is a bridge that can be cut in two; the edge stays whole.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use rand::RngExt;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The two halves of the mesh while it is cut.
const HALVES: [&str; 2] = ["mesh0", "mesh1"];
const EDGE: &str = "edge";
/// The hub's last byte on both networks.
const HUB: u8 = 1;

/// Removes what the network made, as soon as its standard input ends: however the one who held the
/// other end came to his end. A signal for the whole group does not reach it.
const JANITOR: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for name in $(ip netns list | cut -d ' ' -f 1 | grep "^$1-"); do
    ip netns pids "$name" | xargs -r kill -9
    ip netns del "$name"
done
rm -rf "/etc/netns/$1"-*
"#;

/// A hub, and namespaces around it. All of it is gone when this is dropped.
pub struct Network {
    prefix: String,
    janitor: Child,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name, as `ip netns` has it.
    pub name: String,
    /// The last byte of its addresses.
    pub host: u8,
}

impl Namespace {
    /// Where clients reach it.
    pub fn edge(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.host)
    }

    /// Where other nodes reach it.
    pub fn mesh(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, self.host)
    }

    /// `program`, to be run in the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).env("PATH", with_sbin());
        command
    }

    /// Lets what will run in it look names up at `server` only.
    pub fn resolve_at(&self, server: Ipv4Addr) {
        let dir = Path::new("/etc/netns").join(&self.name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("resolv.conf"), format!("nameserver {server}\noptions timeout:1\n")).unwrap();
    }

    /// Removes it, when nothing runs in it any more.
    pub fn remove(&self) {
        ip(&["netns", "del", &self.name]).unwrap_or_else(|error| panic!("{error}"));
        let _ = fs::remove_dir_all(Path::new("/etc/netns").join(&self.name));
    }
}

/// Why this machine cannot have such a network, if it cannot.
pub fn unavailable() -> Option<&'static str> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let tried = REASON.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root".into());
        }
        Network::try_new().and_then(|network| network.try_add(2)).err()
    });
    tried.as_deref()
}

impl Network {
    /// A hub without nodes. Panics where [`unavailable`] says why.
    pub fn new() -> Self {
        Self::try_new().unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_new() -> Result<Self, String> {
        let prefix = format!("sp{:08x}", rand::rng().random::<u32>());
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor", &prefix])
            .env("PATH", with_sbin())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let network = Self { prefix, janitor };
        let hub = network.hub();
        ip(&["netns", "add", &hub.name])?;
        ip(&["-n", &hub.name, "link", "set", "lo", "up"])?;
        let bridges = [(EDGE, Some(hub.edge())), (HALVES[0], Some(hub.mesh())), (HALVES[1], None)];
        for (n, (bridge, address)) in bridges.into_iter().enumerate() {
            // Without an address of its own a bridge has that of a port, and changes it with its ports;
            // until the neighbours notice, nobody reaches the hub.
            let mac = format!("02:00:00:00:00:{n:02x}");
            ip(&["-n", &hub.name, "link", "add", bridge, "address", &mac, "type", "bridge"])?;
            if let Some(address) = address {
                ip(&["-n", &hub.name, "addr", "add", &format!("{address}/24"), "dev", bridge])?;
            }
            ip(&["-n", &hub.name, "link", "set", bridge, "up"])?;
        }
        Ok(network)
    }

    /// The namespace in the middle.
    pub fn hub(&self) -> Namespace {
        Namespace { name: format!("{}-hub", self.prefix), host: HUB }
    }

    /// Moves the calling thread into the hub, and with it all threads and processes that it starts.
    pub fn enter(&self) {
        enter(&self.hub());
    }

    /// Adds a namespace with `host` as the last byte of its addresses.
    pub fn add(&self, host: u8) -> Namespace {
        self.try_add(host).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_add(&self, host: u8) -> Result<Namespace, String> {
        let node = Namespace { name: format!("{}-{host}", self.prefix), host };
        ip(&["netns", "add", &node.name])?;
        ip(&["-n", &node.name, "link", "set", "lo", "up"])?;
        for (network, bridge, address) in [("edge", EDGE, node.edge()), ("mesh", HALVES[0], node.mesh())] {
            let (inside, outside) = (network, port(network, host));
            let hub = self.hub().name;
            let link = ["link", "add", &outside, "type", "veth", "peer", "name", inside, "netns", &node.name];
            ip(&[&["-n", &hub], &link[..]].concat())?;
            ip(&["-n", &hub, "link", "set", &outside, "master", bridge, "up"])?;
            ip(&["-n", &node.name, "addr", "add", &format!("{address}/24"), "dev", inside])?;
            ip(&["-n", &node.name, "link", "set", inside, "up"])?;
        }
        Ok(node)
    }

    /// Cuts the mesh: these nodes here, the hub and all others there.
    pub fn split(&self, away: &[Namespace]) {
        away.iter().for_each(|node| self.plug(node, HALVES[1]));
    }

    /// Makes the mesh whole.
    pub fn heal(&self, away: &[Namespace]) {
        away.iter().for_each(|node| self.plug(node, HALVES[0]));
    }

    fn plug(&self, node: &Namespace, bridge: &str) {
        let port = port("mesh", node.host);
        ip(&["-n", &self.hub().name, "link", "set", &port, "master", bridge]).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

/// Moves the calling thread into a namespace.
pub fn enter(namespace: &Namespace) {
    let file = File::open(Path::new("/run/netns").join(&namespace.name)).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// The name of the hub's end of a node's link.
fn port(network: &str, host: u8) -> String {
    format!("{network}-{host}")
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).env("PATH", with_sbin()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip (of Debian's iproute2): {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("ip {}: {}", arguments.join(" "), said.trim()))
}

/// Users other than root need not have sbin in their PATH.
pub fn with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
