//! What a node serves and does: every listener with what it needs, each as a task.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{App, default_backend, membership};
use crate::{
    balancer::Balancer,
    config::{self, BalancerType, Config},
    metrics::{
        Metrics,
        label::{Listener, Upstream},
        scrape::Sources,
    },
    relay::{self, buffer::Pool, dial::Dialer, udp::Socket, workers::Workers},
    server::{
        api::{self, ApiState},
        exporter::{self, Exporter},
        http, rtmp, srt,
        streams::{self, Segments, static_files::StaticFiles},
        system::{self, SystemState},
        webrtc::{self, registry::Registry, signalling},
    },
    session::Sessions,
    shutdown::Shutdown,
};

/// How long clients wait for the first heartbeat of the default backend to be taken.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(2);

/// The servers, each of which gives its name when it ends.
pub(super) type Servers = JoinSet<&'static str>;

pub(super) async fn named(server: &'static str, run: impl Future<Output = ()>) -> &'static str {
    run.await;
    server
}

/// What servers have in common.
struct Common<'a> {
    balancer: Arc<dyn Balancer>,
    sessions: Sessions,
    metrics: Metrics,
    workers: Arc<Workers>,
    dialer: Dialer,
    client: relay::http::Client,
    pool: Pool,
    shutdown: &'a Shutdown,
    servers: Servers,
}

impl App {
    /// Begins to serve.
    pub(super) async fn serve(self, shutdown: &Shutdown) -> Servers {
        let Self {
            config,
            balancer,
            duties,
            sessions,
            metrics,
            workers,
            rtmp,
            http,
            api,
            system,
            exporter,
            webrtc,
            webrtc_addr,
            srt,
            ..
        } = self;
        let dialer = Dialer::default();
        let client = origin_client(&config.upstream, dialer.clone(), &metrics);
        let (pool, servers) = (Pool::default(), Servers::new());
        let mut common = Common { balancer, sessions, metrics, workers, dialer, client, pool, shutdown, servers };

        if let Some(duties) = duties {
            common.servers.spawn(named("mesh", duties));
        }
        if let Some(backend) = &config.default_backend {
            common.default_backend(backend, config.balancer.origin_ttl).await;
        }
        let tidy = common.client.clone();
        common.servers.spawn(named("origin connections", async move { tidy.tidy().await }));
        // A task that the end waits for: before the others have taken over, nobody may miss this node.
        let (balancer, draining) = (Arc::clone(&common.balancer), shutdown.draining().clone());
        let hand_over = membership::hand_over(balancer, draining, config.drain.force);
        common.servers.spawn(named("hand-over", shutdown.tasks().track_future(hand_over)));

        let registry = common.webrtc(webrtc, &config);
        common.api(api, &config, registry, webrtc_addr);
        let answers = common.exporter(exporter.map(|(listener, _)| listener), config.balancer.kind);
        common.system(system, &config, answers);
        common.streams(http, &config);
        common.srt(srt, &config);
        common.rtmp(rtmp, config);
        common.servers
    }
}

impl Common<'_> {
    async fn default_backend(&mut self, backend: &config::DefaultBackend, ttl: Duration) {
        let origin = default_backend::origin(backend);
        // Before the first client, who would be told that there is no origin.
        let _ = timeout(FIRST_HEARTBEAT, self.balancer.register(origin.clone())).await;
        let (balancer, closing) = (Arc::clone(&self.balancer), self.shutdown.closing().clone());
        let heartbeats = default_backend::keep_registered(balancer, origin, ttl, closing);
        self.servers.spawn(named("default backend", heartbeats));
    }

    /// Takes WebRTC media; gives what knows the sessions.
    fn webrtc(&mut self, sockets: Vec<Arc<Socket>>, config: &Config) -> Registry {
        let shutdown = self.shutdown;
        let registry = Registry::new(webrtc::registry::SessionDeps {
            balancer: Arc::clone(&self.balancer),
            sessions: self.sessions.clone(),
            dialer: self.dialer.clone(),
            workers: Arc::clone(&self.workers),
            sockets,
            config: config.webrtc.clone(),
            upstream: config.upstream.clone(),
            metrics: self.metrics.clone(),
            tracker: shutdown.tasks().clone(),
            draining: shutdown.draining().clone(),
            closing: shutdown.closing().clone(),
        });
        // Sessions need it to the end.
        self.servers.spawn(named("webrtc", webrtc::media::serve(registry.clone(), shutdown.done().clone())));
        registry
    }

    fn api(&mut self, listener: TcpListener, config: &Config, registry: Registry, media: SocketAddr) {
        let (balancer, client) = (Arc::clone(&self.balancer), self.client.clone());
        let limits = http::Limits::from(&config.api).with_time_for(webrtc::patience(&config.webrtc, &config.upstream));
        let webrtc = signalling::router(Arc::new(webrtc::Context {
            registry,
            vhosts: config.vhosts.clone(),
            client: client.clone(),
            media,
        }));
        let state = ApiState { balancer, client, config: config.api.clone(), webrtc };
        self.serve_answers("http api", Listener::Api, listener, api::router(state), limits);
    }

    /// Serves metrics on a listener of their own, if there is one; gives what answers scrapes elsewhere.
    fn exporter(&mut self, listener: Option<TcpListener>, kind: BalancerType) -> Exporter {
        let exporter = Exporter::new(Sources {
            metrics: self.metrics.clone(),
            balancer: Arc::clone(&self.balancer),
            kind,
            sessions: self.sessions.clone(),
            ready: self.shutdown.ready(),
            draining: self.shutdown.draining().clone(),
        });
        if let Some(listener) = listener {
            let (router, limits) = (exporter::router(exporter.clone()), http::Limits::exporter());
            self.serve_answers("exporter", Listener::Exporter, listener, router, limits);
        }
        exporter
    }

    fn system(&mut self, listener: TcpListener, config: &Config, exporter: Exporter) {
        let router = system::router(SystemState {
            balancer: Arc::clone(&self.balancer),
            kind: config.balancer.kind,
            sessions: self.sessions.clone(),
            metrics: self.metrics.clone(),
            exporter,
            token: config.system.token.clone(),
            ready: self.shutdown.ready(),
            draining: self.shutdown.draining().clone(),
            started: Instant::now(),
        });
        self.serve_answers("system api", Listener::System, listener, router, http::Limits::from(&config.system));
    }

    /// Serves answers that do not go on, so that this can stay until everything else has ended.
    fn serve_answers(
        &mut self,
        name: &'static str,
        label: Listener,
        listener: TcpListener,
        router: axum::Router,
        limits: http::Limits,
    ) {
        let (stop, close) = (self.shutdown.done().clone(), CancellationToken::new());
        let metrics = self.metrics.listener(label);
        let server = http::Server { router, limits, metrics, workers: None, stop, close };
        self.servers.spawn(named(name, server.run(listener)));
    }

    fn streams(&mut self, listener: TcpListener, config: &Config) {
        let shutdown = self.shutdown;
        let context = Arc::new(streams::Context {
            balancer: Arc::clone(&self.balancer),
            sessions: self.sessions.clone(),
            metrics: self.metrics.clone(),
            vhosts: config.vhosts.clone(),
            pool: self.pool.clone(),
            pieces: Segments::new(config.http.stream_idle, config.balancer.max_streams),
            files: config.http.static_files.clone().map(StaticFiles::new),
            http: config.http.clone(),
            upstream: config.upstream.clone(),
            client: self.client.clone(),
            closing: shutdown.closing().clone(),
        });
        let remembered = Arc::clone(&context);
        self.servers.spawn(named("streams fetched in pieces", async move { remembered.pieces.tidy().await }));
        let server = http::Server {
            router: streams::router(context),
            limits: streams::limits(&config.http, &config.upstream),
            metrics: self.metrics.listener(Listener::Streams),
            workers: Some(Arc::clone(&self.workers)),
            stop: shutdown.draining().clone(),
            close: shutdown.closing().clone(),
        };
        self.servers.spawn(named("http streams", shutdown.tasks().track_future(server.run(listener))));
    }

    fn srt(&mut self, sockets: Vec<Arc<Socket>>, config: &Config) {
        let (shutdown, draining) = (self.shutdown, self.shutdown.draining());
        let context = Arc::new(srt::Context {
            balancer: Arc::clone(&self.balancer),
            sessions: self.sessions.clone(),
            vhosts: config.vhosts.clone(),
            srt: config.srt.clone(),
            upstream: config.upstream.clone(),
            metrics: self.metrics.clone(),
            dialer: self.dialer.clone(),
            workers: Arc::clone(&self.workers),
            closing: shutdown.closing().clone(),
        });
        let srt = srt::serve(sockets, context, draining.clone(), shutdown.tasks().clone());
        self.servers.spawn(named("srt", shutdown.tasks().track_future(srt)));
    }

    fn rtmp(&mut self, listener: TcpListener, config: Config) {
        let (shutdown, draining) = (self.shutdown, self.shutdown.draining());
        let context = Arc::new(rtmp::Context {
            balancer: Arc::clone(&self.balancer),
            sessions: self.sessions.clone(),
            vhosts: config.vhosts,
            rtmp: config.rtmp,
            upstream: config.upstream,
            metrics: self.metrics.clone(),
            dialer: self.dialer.clone(),
            workers: Arc::clone(&self.workers),
            pool: self.pool.clone(),
            closing: shutdown.closing().clone(),
        });
        self.servers.spawn(named("origin probes", rtmp::probe_suspects(Arc::clone(&context), draining.clone())));
        let rtmp = rtmp::serve(listener, context, draining.clone(), shutdown.tasks().clone());
        self.servers.spawn(named("rtmp", shutdown.tasks().track_future(rtmp)));
    }
}

fn origin_client(upstream: &config::Upstream, dialer: Dialer, metrics: &Metrics) -> relay::http::Client {
    let settings = relay::http::Settings {
        connect_timeout: upstream.connect_timeout,
        keepalive: upstream.http_keepalive,
        max_idle: upstream.http_max_idle,
    };
    relay::http::Client::counting(dialer, settings, metrics.origins(Upstream::Http))
}
