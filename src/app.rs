//! Everything put together: what is bound, what is served, how it ends.

pub mod default_backend;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{error, info, warn};

use crate::{
    balancer::{Balancer, memory::MemoryBalancer},
    config::{self, BalancerType, Config, keys},
    net::{self, ListenError},
    relay::buffer::Pool,
    server::{
        http, rtmp,
        system::{self, SystemState},
    },
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
    /// A listener was opened, but has no address.
    #[error("the address of a listener: {0}")]
    Address(io::Error),
}

/// A node that is bound but does not serve yet.
pub struct App {
    config: Config,
    balancer: Arc<dyn Balancer>,
    sessions: Sessions,
    rtmp: TcpListener,
    rtmp_addr: SocketAddr,
    system: TcpListener,
    system_addr: SocketAddr,
}

impl App {
    /// Binds every listener. If one fails, none stays open.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        let rtmp = net::listen(&config.rtmp.listen, &keys::PROXY_RTMP_SERVER.spec).await?;
        let system = net::listen(&config.system.listen, &keys::PROXY_SYSTEM_API.spec).await?;
        Ok(Self {
            balancer: balancer(&config.balancer),
            sessions: Sessions::default(),
            rtmp_addr: rtmp.local_addr().map_err(StartError::Address)?,
            system_addr: system.local_addr().map_err(StartError::Address)?,
            rtmp,
            system,
            config,
        })
    }

    /// Where RTMP clients are taken.
    pub fn rtmp_addr(&self) -> SocketAddr {
        self.rtmp_addr
    }

    /// Where the system API answers.
    pub fn system_addr(&self) -> SocketAddr {
        self.system_addr
    }

    /// Serves until `shutdown` is done.
    pub async fn run(self, shutdown: Shutdown) -> Outcome {
        let sessions = self.sessions.clone();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            balancer = self.config.balancer.kind.as_str(),
            rtmp = %self.rtmp_addr,
            system_api = %self.system_addr,
            "listening"
        );
        let mut servers = self.serve(&shutdown);
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
        if matches!(outcome, Outcome::Clean | Outcome::Failed) {
            let _ = timeout(LAST_ANSWERS, async { while servers.join_next().await.is_some() {} }).await;
        }
        outcome
    }

    fn serve(self, shutdown: &Shutdown) -> Servers {
        let mut servers = Servers::new();
        let Self { config, balancer, sessions, .. } = self;
        let draining = shutdown.draining();
        if let Some(backend) = &config.default_backend {
            let origin = default_backend::origin(backend, &run_id());
            let stop = shutdown.closing().clone();
            let ttl = config.balancer.origin_ttl;
            let heartbeats = default_backend::keep_registered(Arc::clone(&balancer), origin, ttl, stop);
            servers.spawn(named("default backend", heartbeats));
        }

        let (ready, readiness) = watch::channel(true);
        let system = system::router(SystemState {
            balancer: Arc::clone(&balancer),
            sessions: sessions.clone(),
            token: config.system.token.clone(),
            ready: readiness,
            started: Instant::now(),
        });
        let system = http::serve(self.system, system, (&config.system).into(), shutdown.done().clone());
        servers.spawn(named("system api", system));
        let until_draining = draining.clone().cancelled_owned();
        servers.spawn(named("readiness", async move {
            until_draining.await;
            ready.send_replace(false);
        }));

        let context = Arc::new(rtmp::Context {
            balancer,
            sessions,
            vhosts: config.vhosts,
            rtmp: config.rtmp,
            upstream: config.upstream,
            pool: Pool::default(),
            closing: shutdown.closing().clone(),
        });
        servers.spawn(named("origin probes", rtmp::probe_suspects(Arc::clone(&context), draining.clone())));
        let rtmp = rtmp::serve(self.rtmp, context, draining.clone(), shutdown.tasks().clone());
        servers.spawn(named("rtmp", shutdown.tasks().track_future(rtmp)));
        servers
    }
}

async fn named(name: &'static str, server: impl Future<Output = ()>) -> &'static str {
    server.await;
    name
}

/// The servers. Each gives its name when it ends.
type Servers = JoinSet<&'static str>;

fn balancer(config: &config::Balancer) -> Arc<dyn Balancer> {
    match config.kind {
        BalancerType::Memory => Arc::new(MemoryBalancer::new(config)),
    }
}

/// Tells one run of this process from another, even where both have the same process id.
fn run_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// A server that ends while it should serve takes the node down: half a node is worse than none,
/// because nobody restarts it.
async fn supervise(servers: &mut Servers, shutdown: &Shutdown) -> Infallible {
    while let Some(ended) = servers.join_next().await {
        match ended {
            Ok(_) if !shutdown.is_serving() => {}
            Ok(server) => {
                error!(server, "the server ended by itself");
                shutdown.fail();
            }
            Err(error) => {
                error!(%error, "a server panicked");
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

    use super::*;
    use crate::config::{load::load, sources::Sources};

    fn config(settings: &[(&str, &str)]) -> Config {
        let none = BTreeMap::new();
        let env: BTreeMap<_, _> = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        load(Sources { flags: &none, env: &env, dotenv: &none }).unwrap().config
    }

    async fn app(settings: &[(&str, &str)]) -> App {
        let local = [("PROXY_RTMP_SERVER", "127.0.0.1:0"), ("PROXY_SYSTEM_API", "127.0.0.1:0")];
        App::build(config(&[&local, settings].concat())).await.unwrap()
    }

    #[tokio::test]
    async fn if_one_listener_fails_none_stays_open() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (taken_at, free_at) = (taken.local_addr().unwrap(), free.local_addr().unwrap());
        drop(free);
        let settings = [("PROXY_RTMP_SERVER", free_at.to_string()), ("PROXY_SYSTEM_API", taken_at.to_string())];
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let error = App::build(config(&settings)).await.map(|app| app.rtmp_addr()).unwrap_err();
        assert!(error.to_string().starts_with("PROXY_SYSTEM_API: cannot listen on"), "{error}");
        assert!(TcpListener::bind(free_at).await.is_ok());
    }

    #[tokio::test]
    async fn an_idle_app_ends_as_soon_as_it_is_told_to_and_closes_its_listeners() {
        let app = app(&[]).await;
        let addresses = [app.rtmp_addr(), app.system_addr()];
        let shutdown = Shutdown::new(app.config.drain.clone());
        shutdown.begin();
        let ended = timeout(Duration::from_secs(5), app.run(shutdown)).await;
        assert_eq!(ended, Ok(Outcome::Clean));
        for address in addresses {
            assert!(TcpListener::bind(address).await.is_ok());
        }
    }

    #[tokio::test]
    async fn the_default_backend_is_registered_by_the_app() {
        let app = app(&[("PROXY_DEFAULT_BACKEND_ENABLED", "on")]).await;
        let balancer = Arc::clone(&app.balancer);
        let shutdown = Shutdown::new(app.config.drain.clone());
        let run = tokio::spawn(app.run(shutdown.clone()));
        let registered = async {
            while balancer.origins().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), registered).await.unwrap();
        shutdown.begin();
        assert_eq!(run.await.unwrap(), Outcome::Clean);
    }

    #[tokio::test(start_paused = true)]
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
