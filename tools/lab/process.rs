//! Processes that are started here, and what the kernel says of them.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::Result;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);
/// What `/proc/PID/stat` counts in. The same on every architecture that this runs on.
const TICK: Duration = Duration::from_millis(10);

/// What may use a core alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// What is measured: the first core.
    Relay,
    /// What makes and takes the load: the second core.
    Load,
}

/// A command that runs `program` on one core.
pub fn pinned(to: Pinned, program: impl AsRef<OsStr>) -> Result<Command> {
    if std::thread::available_parallelism()?.get() < 2 {
        return Err("this needs two cores: one for the relay, one for the load".into());
    }
    let mut command = Command::new("taskset");
    command.args(["-c", if to == Pinned::Relay { "0" } else { "1" }]).arg(program).env("PATH", with_sbin());
    Ok(command)
}

/// Debian keeps servers out of a user's path.
pub fn with_sbin() -> String {
    format!("{}:/usr/sbin:/usr/local/sbin", env::var("PATH").unwrap_or_default())
}

/// A process that is killed when it is dropped, with those that it has started.
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl Process {
    /// Starts `command`, its output into a file `name`.log of `directory`.
    pub fn spawn(command: &mut Command, directory: &Path, name: &str) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let out = File::create(&log)?;
        let child = command
            .current_dir(directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", command.get_program().display()))?;
        Ok(Self { child, log })
    }

    /// Waits until the process accepts connections on `address`.
    pub async fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("ended at its start, {status}: {}", self.last_words()).into());
            }
            if Instant::now() > deadline {
                return Err(format!("does not listen on {address}: {}", self.last_words()).into());
            }
            sleep(RETRY).await;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    /// The process and its children: nginx works in those.
    fn family(&self) -> Result<Vec<u32>> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let children = children.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        Ok([vec![id], children].concat())
    }

    /// User and system time of all threads so far, those of children included.
    pub fn cpu(&self) -> Result<Duration> {
        self.family()?.into_iter().map(Self::cpu_of).sum()
    }

    /// The scheduler accounts for each living thread in nanoseconds, and in ticks for the whole
    /// process, ended threads included. Both only ever leave something out, so the larger is nearer.
    fn cpu_of(id: u32) -> Result<Duration> {
        let proc = PathBuf::from(format!("/proc/{id}"));
        let stat = fs::read_to_string(proc.join("stat"))?;
        // The command's name may hold spaces; utime and stime are the 12th and 13th field behind it.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u32 = fields.skip(11).take(2).map(str::parse::<u32>).sum::<Result<_, _>>()?;

        let mut nanos = 0;
        for task in fs::read_dir(proc.join("task"))? {
            match fs::read_to_string(task?.path().join("schedstat")) {
                Ok(line) => nanos += line.split_whitespace().next().unwrap_or("0").parse::<u64>()?,
                // The thread has just ended, or the kernel does not keep this.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((TICK * ticks).max(Duration::from_nanos(nanos)))
    }

    /// Its memory.
    pub fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no memory in /proc")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// An address of this machine that nobody listens on, by TCP or by UDP.
pub fn free_address() -> Result<SocketAddr> {
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

/// A server that listens.
pub struct Server {
    /// Its process, if it was started here.
    pub process: Option<Process>,
    /// Where it takes clients.
    pub address: SocketAddr,
}

/// The command that runs nginx with a configuration.
pub fn nginx(directory: &Path, config: &str, mut command: Command) -> Result<Command> {
    let file = directory.join("nginx.conf");
    fs::write(&file, config)?;
    // The prefix keeps whatever nginx wants to create inside the directory.
    command.arg("-p").arg(directory).arg("-c").arg(&file).env("PATH", with_sbin());
    Ok(command)
}
