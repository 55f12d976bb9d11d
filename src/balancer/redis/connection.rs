//! How Redis is reached: one server, a Cluster, or the master that Sentinels name; with TLS or not.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode, Value,
    aio::{MultiplexedConnection, PubSub},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr},
    io::tcp::TcpSettings,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};

use crate::authority::host_port;
use crate::config::{self, RedisServer, RedisTls, Secret};

/// Keys that one step of a scan looks at.
const SCAN: usize = 1000;

/// Why Redis cannot even be asked for.
#[derive(Debug, thiserror::Error)]
pub enum RedisStartError {
    /// A file of the TLS settings cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says of it.
        error: io::Error,
    },
    /// The settings make no connection.
    #[error("Redis: {0}")]
    Settings(#[from] RedisError),
}

/// Knows how to connect.
pub(super) struct Connector {
    target: Target,
    options: AsyncConnectionConfig,
    attempts: AtomicUsize,
    name: String,
}

enum Target {
    Server(Client),
    Cluster { client: Box<ClusterClient>, nodes: Vec<Client> },
    Sentinel(Sentinel),
}

struct Sentinel {
    addresses: Vec<ConnectionAddr>,
    master: String,
    password: Option<Secret>,
    login: RedisConnectionInfo,
    certificates: Option<TlsCertificates>,
}

/// An open connection. Clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connector {
    pub fn new(config: &config::Redis) -> Result<Self, RedisStartError> {
        // Another library may have chosen another one; then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = config.tls.as_ref().map(certificates).transpose()?;
        let address = |(host, port): &(String, u16)| address(host, *port, config.tls.is_some());
        let login = login(config);
        let client = |address: ConnectionAddr| -> RedisResult<Client> {
            let info = info(address, login.clone())?;
            match &certificates {
                Some(certificates) => Client::build_with_tls(info, certificates.clone()),
                None => Client::open(info),
            }
        };
        let (target, name) = match &config.server {
            RedisServer::Single(host, port) => {
                let server = (host.clone(), *port);
                (Target::Server(client(address(&server))?), format!("Redis at {}", names(&[server])))
            }
            RedisServer::Cluster(servers) => {
                let nodes: Vec<_> = servers.iter().map(|server| client(address(server))).collect::<Result<_, _>>()?;
                let infos = servers.iter().map(|server| info(address(server), login.clone()));
                let mut builder = ClusterClientBuilder::new(infos.collect::<Result<Vec<_>, _>>()?)
                    .connection_timeout(config.timeout)
                    .response_timeout(config.timeout)
                    .overall_response_timeout(Some(config.timeout))
                    .tcp_settings(tcp())
                    .retries(4)
                    .min_retry_wait(10)
                    .max_retry_wait(200);
                if let Some(certificates) = certificates {
                    builder = builder.tls(TlsMode::Secure).certs(certificates);
                }
                let name = format!("the Redis Cluster at {}", names(servers));
                (Target::Cluster { client: Box::new(builder.build()?), nodes }, name)
            }
            RedisServer::Sentinel { addresses, master, password } => {
                let name = format!("the Redis master {master} of the Sentinels at {}", names(addresses));
                let sentinel = Sentinel {
                    addresses: addresses.iter().map(address).collect(),
                    master: master.clone(),
                    password: password.clone(),
                    login,
                    certificates,
                };
                (Target::Sentinel(sentinel), name)
            }
        };
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.timeout))
            .set_response_timeout(Some(config.timeout));
        Ok(Self { target, options, attempts: AtomicUsize::new(0), name })
    }

    /// What is connected to, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether one connection stands for many, which are made anew behind it.
    pub fn heals_itself(&self) -> bool {
        matches!(self.target, Target::Cluster { .. })
    }

    /// Opens a connection for commands. The caller keeps the time.
    pub async fn connect(&self) -> RedisResult<Connection> {
        let client = match &self.target {
            Target::Cluster { client, .. } => return client.get_async_connection().await.map(Connection::Cluster),
            Target::Server(client) => client.clone(),
            Target::Sentinel(sentinel) => sentinel.master(self.next()).await?,
        };
        client.get_multiplexed_async_connection_with_config(&self.options).await.map(Connection::Server)
    }

    /// Opens a connection for subscriptions. The caller keeps the time.
    pub async fn subscriber(&self) -> RedisResult<PubSub> {
        let client = match &self.target {
            // What is published at one node of a Cluster arrives at all.
            Target::Cluster { nodes, .. } => nodes[self.next() % nodes.len()].clone(),
            Target::Server(client) => client.clone(),
            Target::Sentinel(sentinel) => sentinel.master(self.next()).await?,
        };
        client.get_async_pubsub().await
    }

    fn next(&self) -> usize {
        self.attempts.fetch_add(1, Ordering::Relaxed)
    }
}

impl Sentinel {
    /// The master, by the word of the Sentinels. Each attempt begins with another one, so that one
    /// that hangs does not take the time of all attempts.
    async fn master(&self, attempt: usize) -> RedisResult<Client> {
        let mut addresses = self.addresses.clone();
        let first = attempt % addresses.len().max(1);
        addresses.rotate_left(first);
        let mut builder = SentinelClientBuilder::new(addresses, &self.master, SentinelServerType::Master)?
            .set_client_to_redis_db(self.login.db())
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        if let Some(username) = self.login.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = self.login.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(password) = &self.password {
            builder = builder.set_client_to_sentinel_password(password.expose());
        }
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        builder.build()?.async_get_client().await
    }
}

impl Connection {
    /// Runs one command.
    pub async fn run(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }

    /// Runs commands without waiting for one before the next is sent.
    pub async fn batch(&mut self, commands: &[Cmd]) -> RedisResult<Vec<RedisResult<Value>>> {
        match self {
            Self::Server(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                pipeline.ignore_errors().query_async(connection).await
            }
            // Neighbouring commands may belong to different nodes.
            Self::Cluster(connection) => {
                let mut running = Vec::with_capacity(commands.len());
                for command in commands {
                    let (command, mut connection) = (command.clone(), connection.clone());
                    running.push(async move { command.query_async::<Value>(&mut connection).await });
                }
                Ok(join_all(running).await)
            }
        }
    }

    /// The servers that each hold a shard of the keys, for [`Self::scan`].
    pub async fn shards(&mut self) -> RedisResult<Vec<Option<Route>>> {
        let Self::Cluster(connection) = self else { return Ok(vec![None]) };
        let slots: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(connection).await?;
        let mut masters = Vec::new();
        let mut routes = Vec::new();
        for range in array(&slots) {
            if let [Value::Int(first), _, master, ..] = array(range)
                && !masters.contains(&master)
                && let Ok(first) = u16::try_from(*first)
            {
                masters.push(master);
                routes.push(Some(Route::new(first, SlotAddr::Master)));
            }
        }
        Ok(routes)
    }

    /// One step of a scan for the keys that match `pattern`: where to go on, and the keys.
    pub async fn scan(&mut self, shard: Option<Route>, cursor: &[u8], pattern: &str) -> RedisResult<Scanned> {
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN);
        let answer = match (self, shard) {
            (Self::Cluster(connection), Some(route)) => connection.route_command(command, to(route)).await?,
            (connection, _) => connection.run(&command).await?,
        };
        let [Value::BulkString(cursor), keys] = array(&answer) else { return Ok((b"0".to_vec(), Vec::new())) };
        let key = |value: &Value| match value {
            Value::BulkString(key) => Some(key.clone()),
            _ => None,
        };
        Ok((cursor.clone(), array(keys).iter().filter_map(key).collect()))
    }

    /// Runs commands on keys that [`Self::scan`] found in `shard`. One whose key has moved since has no
    /// value.
    pub async fn read(&mut self, shard: Option<Route>, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        match (self, shard) {
            _ if commands.is_empty() => Ok(Vec::new()),
            (Self::Cluster(connection), Some(route)) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                let route = SingleNodeRoutingInfo::SpecificNode(route);
                connection.route_pipeline(pipeline, 0, commands.len(), route).await
            }
            (connection, _) => {
                let answers = connection.batch(commands).await?;
                Ok(answers.into_iter().map(|answer| answer.unwrap_or(Value::Nil)).collect())
            }
        }
    }
}

/// Where to go on, and the keys that were found.
pub(super) type Scanned = (Vec<u8>, Vec<Vec<u8>>);

fn to(route: Route) -> RoutingInfo {
    RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route))
}

fn array(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        _ => &[],
    }
}

fn address(host: &str, port: u16, tls: bool) -> ConnectionAddr {
    let host = host.to_owned();
    if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

fn info(address: ConnectionAddr, login: RedisConnectionInfo) -> RedisResult<ConnectionInfo> {
    Ok(address.into_connection_info()?.set_redis_settings(login).set_tcp_settings(tcp()))
}

fn login(config: &config::Redis) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default().set_db(config.db.into());
    if let Some(username) = &config.username {
        login = login.set_username(username);
    }
    if let Some(password) = &config.password {
        login = login.set_password(password.expose());
    }
    login
}

fn tcp() -> TcpSettings {
    const KEEPALIVE: Duration = Duration::from_secs(15);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}

fn certificates(tls: &RedisTls) -> Result<TlsCertificates, RedisStartError> {
    let read = |path: &Path| fs::read(path).map_err(|error| RedisStartError::File { path: path.to_owned(), error });
    let client_tls = tls.identity.as_ref().map(|(cert, key)| -> Result<_, RedisStartError> {
        Ok(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
    });
    Ok(TlsCertificates { client_tls: client_tls.transpose()?, root_cert: tls.ca.as_deref().map(read).transpose()? })
}

fn names(servers: &[(String, u16)]) -> String {
    let name = |(host, port): &(String, u16)| host_port(host, port);
    servers.iter().map(name).collect::<Vec<_>>().join(", ")
}
