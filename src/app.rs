//! Everything put together: what is bound, what is served, how it ends.

pub mod default_backend;
mod membership;

use std::{convert::Infallible, io, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    balancer::{
        Balancer,
        memory::MemoryBalancer,
        mesh,
        redis::{RedisBalancer, RedisStartError},
    },
    config::{BalancerType, Config, keys},
    net::{self, ListenError},
    relay::{self, buffer::Pool, dial::Dialer, workers::Workers},
    server::{
        api::{self, ApiState},
        http, rtmp,
        streams::{self, Pieces, static_files::StaticFiles},
        system::{self, SystemState},
    },
    session::Sessions,
    shutdown::{Outcome, Phase, Shutdown},
};

/// How long clients wait for the first heartbeat of the default backend to be taken.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(2);
/// How long servers may take for their last answers once all sessions have ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The mesh could not be started.
    #[error(transparent)]
    Mesh(#[from] mesh::StartError),
    /// The threads that move bytes could not be started.
    #[error("cannot start the threads that move bytes: {0}")]
    Workers(io::Error),
    /// The settings of Redis make no connection.
    #[error(transparent)]
    Redis(#[from] RedisStartError),
    /// A listener was opened, but has no address.
    #[error("the address of a listener: {0}")]
    Address(io::Error),
}

/// A node that is bound but does not serve yet.
pub struct App {
    config: Config,
    balancer: Arc<dyn Balancer>,
    duties: Option<BoxFuture<'static, ()>>,
    sessions: Sessions,
    workers: Arc<Workers>,
    rtmp: TcpListener,
    rtmp_addr: SocketAddr,
    http: TcpListener,
    http_addr: SocketAddr,
    api: TcpListener,
    api_addr: SocketAddr,
    system: TcpListener,
    system_addr: SocketAddr,
}

impl App {
    /// Binds every listener. If one fails, none stays open.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        let (balancer, duties) = balancer(&config).await?;
        Ok(Self { duties, ..Self::with_balancer(config, balancer).await? })
    }

    /// Does as [`Self::build`], but agrees with other nodes through `balancer`.
    pub async fn with_balancer(config: Config, balancer: Arc<dyn Balancer>) -> Result<Self, StartError> {
        let rtmp = net::listen(&config.rtmp.listen, &keys::PROXY_RTMP_SERVER.spec).await?;
        let http = net::listen(&config.http.listen, &keys::PROXY_HTTP_SERVER.spec).await?;
        let api = net::listen(&config.api.listen, &keys::PROXY_HTTP_API.spec).await?;
        let system = net::listen(&config.system.listen, &keys::PROXY_SYSTEM_API.spec).await?;
        let workers = Workers::start(config.worker_threads.map(NonZeroUsize::get)).map_err(StartError::Workers)?;
        Ok(Self {
            balancer,
            duties: None,
            sessions: Sessions::default(),
            workers: Arc::new(workers),
            rtmp_addr: rtmp.local_addr().map_err(StartError::Address)?,
            http_addr: http.local_addr().map_err(StartError::Address)?,
            api_addr: api.local_addr().map_err(StartError::Address)?,
            system_addr: system.local_addr().map_err(StartError::Address)?,
            rtmp,
            http,
            api,
            system,
            config,
        })
    }

    /// Where RTMP clients are taken.
    pub fn rtmp_addr(&self) -> SocketAddr {
        self.rtmp_addr
    }

    /// Where HTTP streams are played.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where the HTTP API answers.
    pub fn api_addr(&self) -> SocketAddr {
        self.api_addr
    }

    /// Where the system API answers.
    pub fn system_addr(&self) -> SocketAddr {
        self.system_addr
    }

    /// Serves until `shutdown` is done.
    pub async fn run(self, shutdown: Shutdown) -> Outcome {
        let sessions = self.sessions.clone();
        let (rtmp_addr, http_addr) = (self.rtmp_addr, self.http_addr);
        let (api_addr, system_addr) = (self.api_addr, self.system_addr);
        let kind = self.config.balancer.kind;
        let balancer = Arc::clone(&self.balancer);
        let mut servers = self.serve(&shutdown).await;
        shutdown.started();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            balancer = kind.as_str(),
            rtmp = %rtmp_addr,
            http = %http_addr,
            http_api = %api_addr,
            system_api = %system_addr,
            "listening"
        );
        let outcome = tokio::select! {
            outcome = shutdown.run() => outcome,
            never = supervise(&mut servers, &shutdown) => match never {},
            never = tell_phases(&shutdown, &sessions) => match never {},
        };
        match outcome {
            Outcome::Clean => info!("all sessions have ended"),
            Outcome::Failed => error!("ended because a server had failed"),
            Outcome::Forced => error!(sessions = sessions.len(), "force timeout: sessions are left"),
            Outcome::Aborted(_) => warn!(sessions = sessions.len(), "ended at once: sessions are left"),
        }
        let last_answers = async {
            if matches!(outcome, Outcome::Clean | Outcome::Failed) {
                let _ = timeout(LAST_ANSWERS, async { while servers.join_next().await.is_some() {} }).await;
            }
        };
        let leave = async {
            // A second signal is not kept waiting; the other nodes notice by themselves.
            if !matches!(outcome, Outcome::Aborted(_)) {
                membership::leave(&*balancer).await;
            }
        };
        tokio::join!(last_answers, leave);
        outcome
    }

    async fn serve(self, shutdown: &Shutdown) -> Servers {
        let mut servers = Servers::new();
        let Self { config, balancer, duties, sessions, workers, rtmp, http, api, system, .. } = self;
        if let Some(duties) = duties {
            servers.spawn(named("mesh", duties));
        }
        if let Some(backend) = &config.default_backend {
            let origin = default_backend::origin(backend);
            // Before the first client, who would be told that there is no origin.
            let _ = timeout(FIRST_HEARTBEAT, balancer.register(origin.clone())).await;
            let (balancer, ttl) = (Arc::clone(&balancer), config.balancer.origin_ttl);
            let heartbeats = default_backend::keep_registered(balancer, origin, ttl, shutdown.closing().clone());
            servers.spawn(named("default backend", heartbeats));
        }

        let dialer = Dialer::default();
        let client = relay::http::Client::new(
            dialer.clone(),
            relay::http::Settings {
                connect_timeout: config.upstream.connect_timeout,
                keepalive: config.upstream.http_keepalive,
                max_idle: config.upstream.http_max_idle,
            },
        );
        let tidy = client.clone();
        servers.spawn(named("origin connections", async move { tidy.tidy().await }));

        // A task that the end waits for: before the others have taken over, nobody may miss this node.
        let hand_over = membership::hand_over(Arc::clone(&balancer), shutdown.draining().clone(), config.drain.force);
        servers.spawn(named("hand-over", shutdown.tasks().track_future(hand_over)));

        let server = http::Server {
            limits: http::Limits::from(&config.api),
            router: api::router(ApiState {
                balancer: Arc::clone(&balancer),
                client: client.clone(),
                config: config.api,
            }),
            workers: None,
            stop: shutdown.done().clone(),
            close: CancellationToken::new(),
        };
        servers.spawn(named("http api", server.run(api)));

        let limits = http::Limits::from(&config.system);
        let router = system::router(SystemState {
            balancer: Arc::clone(&balancer),
            kind: config.balancer.kind,
            sessions: sessions.clone(),
            token: config.system.token,
            ready: shutdown.ready(),
            draining: shutdown.draining().clone(),
            started: Instant::now(),
        });
        let server = http::Server {
            router,
            limits,
            workers: None,
            stop: shutdown.done().clone(),
            close: CancellationToken::new(),
        };
        servers.spawn(named("system api", server.run(system)));

        let pool = Pool::default();
        let limits = streams::limits(&config.http, &config.upstream);
        let context = Arc::new(streams::Context {
            balancer: Arc::clone(&balancer),
            sessions: sessions.clone(),
            vhosts: config.vhosts.clone(),
            pool: pool.clone(),
            pieces: Pieces::new(config.http.stream_idle, config.balancer.max_streams),
            files: config.http.static_files.clone().map(StaticFiles::new),
            http: config.http,
            upstream: config.upstream.clone(),
            client,
            closing: shutdown.closing().clone(),
        });
        let remembered = Arc::clone(&context);
        servers.spawn(named("streams fetched in pieces", async move { remembered.pieces.tidy().await }));
        let server = http::Server {
            router: streams::router(context),
            limits,
            workers: Some(Arc::clone(&workers)),
            stop: shutdown.draining().clone(),
            close: shutdown.closing().clone(),
        };
        servers.spawn(named("http streams", shutdown.tasks().track_future(server.run(http))));

        let context = Arc::new(rtmp::Context {
            balancer,
            sessions,
            vhosts: config.vhosts,
            rtmp: config.rtmp,
            upstream: config.upstream,
            dialer,
            workers,
            pool,
            closing: shutdown.closing().clone(),
        });
        let draining = shutdown.draining();
        servers.spawn(named("origin probes", rtmp::probe_suspects(Arc::clone(&context), draining.clone())));
        let rtmp = rtmp::serve(rtmp, context, draining.clone(), shutdown.tasks().clone());
        servers.spawn(named("rtmp", shutdown.tasks().track_future(rtmp)));
        servers
    }
}

/// The servers, each of which gives its name when it ends.
type Servers = JoinSet<&'static str>;

async fn named(server: &'static str, run: impl Future<Output = ()>) -> &'static str {
    run.await;
    server
}

/// The balancer that the configuration names, and what it does by itself, if anything.
async fn balancer(config: &Config) -> Result<(Arc<dyn Balancer>, Option<BoxFuture<'static, ()>>), StartError> {
    match config.balancer.kind {
        BalancerType::Memory => Ok((Arc::new(MemoryBalancer::new(&config.balancer)), None)),
        BalancerType::Redis => Ok((Arc::new(RedisBalancer::start(&config.balancer, &config.redis)?), None)),
        BalancerType::Mesh => {
            let mesh::Started { balancer, run, .. } = mesh::start(&config.mesh, &config.balancer).await?;
            Ok((balancer, Some(run)))
        }
    }
}

/// A server that ends while it should serve takes the node down: half a node is worse than none,
/// because nobody restarts it.
async fn supervise(servers: &mut Servers, shutdown: &Shutdown) -> Infallible {
    while let Some(ended) = servers.join_next().await {
        match ended {
            Ok(_) if shutdown.phase() > Phase::Serving => {}
            Ok(server) => {
                error!(server, "the server ended by itself");
                shutdown.fail();
            }
            Err(error) => {
                error!(%error, "a server ended by a fault of this program");
                shutdown.fail();
            }
        }
    }
    std::future::pending().await
}

async fn tell_phases(shutdown: &Shutdown, sessions: &Sessions) -> Infallible {
    shutdown.draining().cancelled().await;
    info!(sessions = sessions.len(), "draining: no more clients are taken");
    shutdown.closing().cancelled().await;
    if shutdown.phase() == Phase::Closing {
        info!(sessions = sessions.len(), "grace timeout: closing sessions");
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::config::{load::load, sources::Sources};

    fn config(settings: &[(&str, &str)]) -> Config {
        let none = BTreeMap::new();
        let env: BTreeMap<_, _> = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        load(Sources { flags: &none, env: &env, dotenv: &none }).unwrap().config
    }

    async fn app(settings: &[(&str, &str)]) -> App {
        let listeners = ["PROXY_RTMP_SERVER", "PROXY_HTTP_SERVER", "PROXY_HTTP_API", "PROXY_SYSTEM_API"];
        let local = listeners.map(|name| (name, "127.0.0.1:0"));
        App::build(config(&[&local, settings].concat())).await.unwrap()
    }

    #[tokio::test]
    async fn if_one_listener_fails_none_stays_open() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (taken_at, free_at) = (taken.local_addr().unwrap(), free.local_addr().unwrap());
        drop(free);
        let settings = [
            ("PROXY_RTMP_SERVER", free_at.to_string()),
            ("PROXY_HTTP_SERVER", "127.0.0.1:0".into()),
            ("PROXY_HTTP_API", "127.0.0.1:0".into()),
            ("PROXY_SYSTEM_API", taken_at.to_string()),
        ];
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let error = App::build(config(&settings)).await.map(|app| app.rtmp_addr()).unwrap_err();
        assert!(error.to_string().starts_with("PROXY_SYSTEM_API: cannot listen on"), "{error}");
        assert!(TcpListener::bind(free_at).await.is_ok());
    }

    #[tokio::test]
    async fn an_idle_app_ends_as_soon_as_it_is_told_to_and_closes_its_listeners() {
        let app = app(&[]).await;
        let addresses = [app.rtmp_addr(), app.api_addr(), app.system_addr()];
        let shutdown = Shutdown::new(app.config.drain.clone());
        shutdown.begin();
        let ended = timeout(Duration::from_secs(5), app.run(shutdown)).await;
        assert_eq!(ended, Ok(Outcome::Clean));
        for address in addresses {
            assert!(TcpListener::bind(address).await.is_ok());
        }
    }

    #[tokio::test]
    async fn the_default_backend_is_registered_before_anybody_is_answered() {
        let app = app(&[("PROXY_DEFAULT_BACKEND_ENABLED", "on")]).await;
        let (balancer, address) = (Arc::clone(&app.balancer), app.system_addr());
        let shutdown = Shutdown::new(app.config.drain.clone());
        let run = tokio::spawn(app.run(shutdown.clone()));
        timeout(Duration::from_secs(5), get(address, "/healthz")).await.unwrap();
        assert_eq!(balancer.origins().await.unwrap().len(), 1);
        shutdown.begin();
        assert_eq!(run.await.unwrap(), Outcome::Clean);
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn probes_can_follow_a_drain_to_its_end() {
        let app = app(&[]).await;
        let (rtmp, system) = (app.rtmp_addr(), app.system_addr());
        let shutdown = Shutdown::new(app.config.drain.clone());
        let last_session = CancellationToken::new();
        shutdown.tasks().spawn(last_session.clone().cancelled_owned());
        let run = tokio::spawn(app.run(shutdown.clone()));
        shutdown.ready().wait_for(|ready| *ready).await.unwrap();
        assert_eq!(get(system, "/readyz").await, "HTTP/1.1 200 OK");

        shutdown.begin();
        let refused = async {
            while TcpStream::connect(rtmp).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), refused).await.unwrap();
        assert_eq!(get(system, "/readyz").await, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(get(system, "/healthz").await, "HTTP/1.1 200 OK");

        last_session.cancel();
        assert_eq!(timeout(Duration::from_secs(5), run).await.unwrap().unwrap(), Outcome::Clean);
        assert!(TcpStream::connect(system).await.is_err());
    }

    #[tokio::test]
    async fn a_client_of_the_system_api_that_stays_connected_does_not_hold_up_the_end() {
        let app = app(&[]).await;
        let idle = TcpStream::connect(app.system_addr()).await.unwrap();
        let shutdown = Shutdown::new(app.config.drain.clone());
        shutdown.begin();
        assert_eq!(timeout(Duration::from_secs(5), app.run(shutdown)).await, Ok(Outcome::Clean));
        drop(idle);
    }

    #[tokio::test]
    async fn a_server_that_ends_while_it_should_serve_takes_the_node_down() {
        let shutdown = Shutdown::new(config(&[]).drain);
        let mut servers = Servers::new();
        servers.spawn(named("rtmp", async {}));
        let outcome = tokio::select! {
            outcome = shutdown.run() => outcome,
            never = supervise(&mut servers, &shutdown) => match never {},
        };
        assert_eq!(outcome, Outcome::Failed);
    }
}
