//! A headless browser, kept from asking anybody but this machine.

use std::{ffi::OsString, process::Command, time::Duration};

use tempfile::TempDir;

use super::process::Process;

/// How long a browser may take for what it does in a second or two on an idle machine.
pub const START: Duration = Duration::from_secs(40);

/// A running browser and its profile.
pub struct Browser {
    pub process: Process,
    _profile: TempDir,
}

/// Opens a page.
pub fn browse(url: &str, options: &[&str]) -> Browser {
    let profile = tempfile::tempdir().unwrap();
    let mut data = OsString::from("--user-data-dir=");
    data.push(profile.path());
    let mut command = Command::new("chromium");
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    command.args(["--autoplay-policy=no-user-gesture-required", "--mute-audio", "--no-proxy-server"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]);
    command.env("HOME", profile.path()).current_dir(profile.path());
    command.args(options).arg(data).arg(url);
    Browser { process: Process::spawn("chromium", &command), _profile: profile }
}
