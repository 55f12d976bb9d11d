//! Redis: single servers, Clusters and Sentinels, each in a directory and on ports of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use srs_proxy::config::{self, BalancerType, Policy, RedisServer, RedisTls};
use tempfile::TempDir;

use super::{
    ports::{free_port, is_listening},
    process::Process,
    wait::{LIMIT, wait_for},
};

/// A running server.
pub struct Redis {
    dir: TempDir,
    process: Process,
    port: u16,
    options: Vec<String>,
    /// Options of `redis-cli` beside the port.
    cli: Vec<String>,
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further options, two words each.
    pub fn start_with(options: &[&str]) -> Self {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        Self::start_in(tempfile::tempdir().unwrap(), options)
    }

    /// Starts a server that speaks TLS only, with a certificate authority of its own.
    pub fn start_with_tls() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = "set -e
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca \
                -keyout ca.key -out ca.pem
            for name in server client; do
                openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$name -keyout $name.key \
                    -out $name.csr
                printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n' > $name.ext
                openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out $name.pem \
                    -extfile $name.ext
            done";
        let made = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let options = ["--tls-cert-file", &path("server.pem"), "--tls-key-file", &path("server.key")];
        let mut options: Vec<String> = options.map(str::to_owned).to_vec();
        options.extend(["--tls-ca-cert-file".to_owned(), path("ca.pem")]);
        let cli = ["--tls", "--cacert", &path("ca.pem"), "--cert", &path("client.pem"), "--key", &path("client.key")];
        let cli = cli.map(str::to_owned).to_vec();
        let mut redis = Self::start_in(dir, options);
        redis.cli = cli;
        redis
    }

    fn start_in(dir: TempDir, options: Vec<String>) -> Self {
        // A port can be taken between the choice and the bind.
        for _ in 0..10 {
            let port = free_port().port();
            let mut process = run(&dir, port, &options);
            if listens(&mut process, port) {
                return Self { dir, process, port, options, cli: Vec::new() };
            }
        }
        panic!("redis-server found no free port");
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The settings of a node that uses it.
    pub fn config(&self) -> config::Redis {
        config::Redis {
            server: RedisServer::Single("127.0.0.1".into(), self.port),
            username: None,
            password: None,
            db: 0,
            tls: self.options.iter().any(|option| option.starts_with("--tls")).then(|| RedisTls {
                ca: Some(self.file("ca.pem")),
                identity: Some((self.file("client.pem"), self.file("client.key"))),
            }),
            key_prefix: String::new(),
            timeout: Duration::from_secs(1),
        }
    }

    /// Runs a command as `redis-cli` does and gives what it prints.
    pub fn cli(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", "127.0.0.1", "-p", &port]).args(&self.cli).args(command);
        let output = cli.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Kills it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, after [`Self::kill`], where it was.
    pub fn restart(&mut self) {
        wait_for("redis-server listens again", LIMIT, || {
            self.process = run(&self.dir, self.port, &self.options);
            listens(&mut self.process, self.port)
        });
    }

    /// Stops it: the system still accepts connections, but nothing answers them.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it run again.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }
}

/// A Redis Cluster of three masters.
pub struct RedisCluster {
    /// Its nodes.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts the servers and gives each a third of the slots.
    pub fn start() -> Self {
        let node = || {
            let bus = free_port().port().to_string();
            Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"])
        };
        let nodes: Vec<_> = (0..3).map(|_| node()).collect();
        for (i, (node, (first, last))) in
            nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]).enumerate()
        {
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
        }
        for node in &nodes[1..] {
            let port = node.port.to_string();
            let bus = &node.options[3];
            nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]);
        }
        let cluster = Self { nodes };
        wait_for("the cluster is complete", LIMIT, || {
            cluster.nodes.iter().all(|node| {
                let info = node.cli(&["CLUSTER", "INFO"]);
                let slots = node.cli(&["CLUSTER", "NODES"]);
                info.contains("cluster_state:ok")
                    && info.contains("cluster_known_nodes:3")
                    && slots.lines().filter(|line| line.contains("connected ")).count() == 3
            })
        });
        cluster
    }

    /// The settings of a node that uses it.
    pub fn config(&self) -> config::Redis {
        let servers = self.nodes.iter().map(|node| ("127.0.0.1".to_owned(), node.port)).collect();
        config::Redis { server: RedisServer::Cluster(servers), ..self.nodes[0].config() }
    }
}

/// A master, a replica and a Sentinel that watches them.
pub struct RedisSentinel {
    /// The master at first.
    pub master: Redis,
    /// The replica that takes over.
    pub replica: Redis,
    _sentinel: Process,
    port: u16,
    _dir: TempDir,
}

impl RedisSentinel {
    /// Starts all three and waits until the Sentinel knows the others.
    pub fn start() -> Self {
        let master = Redis::start();
        let to = format!("127.0.0.1 {}", master.port);
        let replica = Redis::start_with(&["--replicaof", &to]);
        wait_for("the replica follows", LIMIT, || {
            replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
        });
        for _ in 0..10 {
            let dir = tempfile::tempdir().unwrap();
            let port = free_port().port();
            let settings = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor mymaster {to} 1\n\
                 sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n",
                dir.path().display()
            );
            let file = dir.path().join("sentinel.conf");
            fs::write(&file, settings).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel").current_dir(dir.path());
            let mut sentinel = Process::spawn("redis-sentinel", &command);
            if listens(&mut sentinel, port) {
                let this = Self { master, replica, _sentinel: sentinel, port, _dir: dir };
                wait_for("the Sentinel knows the replica", LIMIT, || {
                    this.ask(&["SENTINEL", "REPLICAS", "mymaster"]).contains(&this.replica.port.to_string())
                });
                return this;
            }
        }
        panic!("the Sentinel found no free port");
    }

    /// The settings of a node that uses it.
    pub fn config(&self) -> config::Redis {
        let server = RedisServer::Sentinel {
            addresses: vec![("127.0.0.1".into(), self.port)],
            master: "mymaster".into(),
            password: None,
        };
        config::Redis { server, ..self.master.config() }
    }

    fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Placement with times that a test can wait for.
pub fn balancer_config() -> config::Balancer {
    config::Balancer {
        kind: BalancerType::Redis,
        policy: Policy::PowerOfTwo,
        origin_ttl: Duration::from_secs(8),
        placement_hold: Duration::from_secs(2),
        // Ten thousand placements are renewed in a third of it, by tests that are not optimised.
        connecting: Duration::from_secs(6),
        max_origins: 100,
        max_streams: 100_000,
    }
}

fn run(dir: &TempDir, port: u16, options: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    let port = port.to_string();
    let tls = options.iter().any(|option| option.starts_with("--tls"));
    let ports = if tls { ["--port", "0", "--tls-port", &port].to_vec() } else { ["--port", &port].to_vec() };
    command.args(ports).args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--dir"]).arg(dir.path()).args(options).current_dir(dir.path());
    Process::spawn("redis-server", &command)
}

/// Waits until it listens; false if it ended, as it does if a port is taken.
fn listens(process: &mut Process, port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut ended = false;
    wait_for("Redis listens or ends", LIMIT, || {
        ended = process.try_exit().is_some();
        ended || is_listening(address)
    });
    if ended {
        let said = process.stdout() + &process.stderr();
        assert!(said.contains("in use"), "Redis failed\n{said}");
    }
    !ended
}
