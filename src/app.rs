//! Everything put together: what is bound, what is served, how it ends.

pub mod default_backend;
mod membership;
mod servers;

use std::{convert::Infallible, io, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{net::TcpListener, time::timeout};
use tracing::{error, info, warn};

use self::servers::Servers;
use crate::{
    balancer::{
        Balancer,
        memory::MemoryBalancer,
        mesh,
        redis::{RedisBalancer, RedisStartError},
    },
    config::{
        BalancerType, Config, Listen,
        keys::{self, Spec},
    },
    metrics::{Metrics, balancer::Measured},
    net::{self, ListenError},
    relay::{udp::Socket, workers::Workers},
    session::Sessions,
    shutdown::{Outcome, Phase, Shutdown},
};

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
    metrics: Metrics,
    workers: Arc<Workers>,
    rtmp: TcpListener,
    rtmp_addr: SocketAddr,
    http: TcpListener,
    http_addr: SocketAddr,
    api: TcpListener,
    api_addr: SocketAddr,
    system: TcpListener,
    system_addr: SocketAddr,
    webrtc: Vec<Arc<Socket>>,
    webrtc_addr: SocketAddr,
    srt: Vec<Arc<Socket>>,
    srt_addr: SocketAddr,
    exporter: Option<(TcpListener, SocketAddr)>,
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
        let (webrtc, webrtc_addr) =
            datagrams(&config.webrtc.listen, &keys::PROXY_WEBRTC_SERVER.spec, &config, &workers).await?;
        let (srt, srt_addr) = datagrams(&config.srt.listen, &keys::PROXY_SRT_SERVER.spec, &config, &workers).await?;
        let exporter = match &config.exporter {
            Some(listen) => {
                let listener = net::listen(listen, &keys::PROXY_EXPORTER_LISTEN.spec).await?;
                let address = listener.local_addr().map_err(StartError::Address)?;
                Some((listener, address))
            }
            None => None,
        };
        let metrics = Metrics::default();
        let balancer: Arc<dyn Balancer> = Arc::new(Measured::new(balancer, metrics.clone()));
        Ok(Self {
            balancer,
            duties: None,
            sessions: Sessions::default(),
            metrics,
            exporter,
            workers: Arc::new(workers),
            rtmp_addr: rtmp.local_addr().map_err(StartError::Address)?,
            http_addr: http.local_addr().map_err(StartError::Address)?,
            api_addr: api.local_addr().map_err(StartError::Address)?,
            system_addr: system.local_addr().map_err(StartError::Address)?,
            rtmp,
            http,
            api,
            system,
            webrtc,
            webrtc_addr,
            srt,
            srt_addr,
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

    /// Where WebRTC media arrive.
    pub fn webrtc_addr(&self) -> SocketAddr {
        self.webrtc_addr
    }

    /// Where SRT clients are taken.
    pub fn srt_addr(&self) -> SocketAddr {
        self.srt_addr
    }

    /// Where the system API answers.
    pub fn system_addr(&self) -> SocketAddr {
        self.system_addr
    }

    /// Where only the metrics are, if they are anywhere but on the system API.
    pub fn exporter_addr(&self) -> Option<SocketAddr> {
        self.exporter.as_ref().map(|(_, address)| *address)
    }

    /// Serves until `shutdown` is done.
    pub async fn run(self, shutdown: Shutdown) -> Outcome {
        let sessions = self.sessions.clone();
        let (rtmp_addr, http_addr, api_addr) = (self.rtmp_addr, self.http_addr, self.api_addr);
        let (webrtc_addr, srt_addr) = (self.webrtc_addr, self.srt_addr);
        let (system_addr, exporter_addr) = (self.system_addr, self.exporter_addr());
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
            webrtc = %webrtc_addr,
            srt = %srt_addr,
            system_api = %system_addr,
            exporter = exporter_addr.map(tracing::field::display),
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
}

/// Binds a listener of datagrams: a socket for each worker.
async fn datagrams(
    listen: &Listen,
    setting: &Spec,
    config: &Config,
    workers: &Workers,
) -> Result<(Vec<Arc<Socket>>, SocketAddr), StartError> {
    let sockets = net::listen_udp_group(listen, setting, config.udp_buffer, workers.count()).await?;
    let first = sockets.first().ok_or_else(|| StartError::Address(io::ErrorKind::NotFound.into()))?;
    let address = first.local_addr().map_err(StartError::Address)?;
    let sockets = sockets.into_iter().map(|socket| Socket::new(socket).map(Arc::new)).collect::<io::Result<_>>();
    Ok((sockets.map_err(StartError::Address)?, address))
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
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::{load::load, sources::Sources};

    fn config(settings: &[(&str, &str)]) -> Config {
        let none = BTreeMap::new();
        let env: BTreeMap<_, _> = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        load(Sources { flags: &none, env: &env, dotenv: &none }).unwrap().config
    }

    const LOCAL: [(&str, &str); 6] = [
        ("PROXY_RTMP_SERVER", "127.0.0.1:0"),
        ("PROXY_HTTP_SERVER", "127.0.0.1:0"),
        ("PROXY_HTTP_API", "127.0.0.1:0"),
        ("PROXY_SYSTEM_API", "127.0.0.1:0"),
        ("PROXY_WEBRTC_SERVER", "127.0.0.1:0"),
        ("PROXY_SRT_SERVER", "127.0.0.1:0"),
    ];

    async fn app(settings: &[(&str, &str)]) -> App {
        App::build(config(&[&LOCAL, settings].concat())).await.unwrap()
    }

    #[tokio::test]
    async fn if_one_listener_fails_none_stays_open() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (taken_at, free_at) = (taken.local_addr().unwrap(), free.local_addr().unwrap());
        drop(free);
        let (taken_at, free_at) = (taken_at.to_string(), free_at.to_string());
        let settings = [("PROXY_RTMP_SERVER", free_at.as_str()), ("PROXY_SYSTEM_API", taken_at.as_str())];
        let error = App::build(config(&[&LOCAL[..], &settings].concat())).await.map(|app| app.rtmp_addr()).unwrap_err();
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
        servers.spawn(servers::named("rtmp", async {}));
        let outcome = tokio::select! {
            outcome = shutdown.run() => outcome,
            never = supervise(&mut servers, &shutdown) => match never {},
        };
        assert_eq!(outcome, Outcome::Failed);
    }
}
