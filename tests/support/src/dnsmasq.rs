//! A name server of its own, inside a namespace.

use std::{collections::BTreeMap, fmt::Write, fs, net::Ipv4Addr, path::PathBuf, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    netns::{Namespace, with_sbin},
    process::Process,
    wait::{LIMIT, wait_for},
};

/// A running dnsmasq, which knows nothing but what it is told.
pub struct Dnsmasq {
    process: Process,
    hosts: PathBuf,
    _dir: TempDir,
}

/// Whether it is installed (Debian's `dnsmasq-base`).
pub fn is_installed() -> bool {
    Command::new("dnsmasq").arg("--version").env("PATH", with_sbin()).output().is_ok()
}

impl Dnsmasq {
    /// Serves on the mesh address of a namespace.
    pub fn start(namespace: &Namespace, names: &BTreeMap<String, Vec<Ipv4Addr>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        fs::write(&hosts, list(names)).unwrap();
        let mut command = namespace.command("dnsmasq");
        command
            .args(["--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--user=root", "--pid-file="])
            .args(["--no-resolv", "--no-hosts", "--local-ttl=1", "--bind-interfaces"])
            .arg(format!("--listen-address={}", namespace.mesh()))
            .arg(format!("--addn-hosts={}", hosts.display()));
        let mut process = Process::spawn("dnsmasq", &command);
        wait_for("dnsmasq has read the names", LIMIT, || {
            process.assert_running();
            process.stderr().contains("read ")
        });
        Self { process, hosts, _dir: dir }
    }

    /// Serves other names from now on.
    pub fn set(&self, names: &BTreeMap<String, Vec<Ipv4Addr>>) {
        let read = || self.process.stderr().matches("read ").count();
        let before = read();
        fs::write(&self.hosts, list(names)).unwrap();
        self.process.signal(Signal::HUP);
        wait_for("dnsmasq has read the names again", LIMIT, || read() > before);
    }
}

fn list(names: &BTreeMap<String, Vec<Ipv4Addr>>) -> String {
    names.iter().flat_map(|(name, addresses)| addresses.iter().map(move |address| (name, address))).fold(
        String::new(),
        |mut list, (name, address)| {
            // Writing to a string does not fail.
            let _ = writeln!(list, "{address} {name}");
            list
        },
    )
}
