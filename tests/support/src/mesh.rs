//! Several proxies as a mesh.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::{
    http,
    netns::Namespace,
    ports::free_port,
    proxy::Proxy,
    wait::{LIMIT, wait_for},
};

/// Any key.
const KEY: &str = "dGVzdHMgbmVlZCBhIGtleSBvZiB0aGlydHktdHdvISE=";

/// Nodes that know each other.
pub struct Mesh {
    nodes: Vec<Node>,
    seeds: String,
}

struct Node {
    proxy: Option<Proxy>,
    namespace: Option<Namespace>,
    gossip: SocketAddr,
    grpc: SocketAddr,
    /// The name under which others reach it, if not its address.
    host: Option<String>,
}

impl Mesh {
    /// Starts nodes on loopback and waits until they see each other.
    pub fn start(count: usize) -> Self {
        let nodes = (0..count).map(|_| {
            let (gossip, grpc) = (free(), free());
            Node { proxy: None, namespace: None, gossip, grpc, host: None }
        });
        Self::run(nodes.collect(), None)
    }

    /// Starts a node in each namespace and waits until they see each other.
    pub fn start_in(namespaces: &[Namespace]) -> Self {
        Self::run(namespaces.iter().map(|namespace| Node::inside(namespace, None)).collect(), None)
    }

    /// Starts a node in each namespace. They find each other under the name of a `service`, and are
    /// called `node-N.SERVICE`.
    pub fn start_named(namespaces: &[Namespace], service: &str) -> Self {
        let nodes = namespaces.iter().enumerate().map(|(n, namespace)| {
            let host = Some(format!("node-{n}.{service}"));
            Node::inside(namespace, host)
        });
        Self::run(nodes.collect(), Some(format!("{service}:12026")))
    }

    fn run(nodes: Vec<Node>, seeds: Option<String>) -> Self {
        let addresses = nodes.iter().map(|node| node.gossip.to_string()).collect::<Vec<_>>().join(",");
        let mut mesh = Self { nodes, seeds: seeds.unwrap_or(addresses) };
        (0..mesh.nodes.len()).for_each(|n| mesh.start_node(n));
        mesh.wait_until_settled();
        mesh
    }

    /// Starts a node that does not run, with the name and in the place that it had.
    pub fn start_node(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let (name, gossip, grpc) = (format!("node-{n}"), node.gossip.to_string(), node.grpc.to_string());
        let rtmp = node.namespace.as_ref().map_or(Ipv4Addr::LOCALHOST, Namespace::edge);
        let [rtmp, http, api] = std::array::from_fn(|_| format!("{rtmp}:0"));
        let mut settings = vec![
            ("PROXY_RTMP_SERVER", rtmp.as_str()),
            ("PROXY_HTTP_SERVER", &http),
            ("PROXY_SYSTEM_API", &api),
            ("PROXY_LOAD_BALANCER_TYPE", "mesh"),
            ("PROXY_MESH_NODE_ID", &name),
            ("PROXY_MESH_GOSSIP_LISTEN", &gossip),
            ("PROXY_MESH_GRPC_LISTEN", &grpc),
            ("PROXY_MESH_SEEDS", &self.seeds),
            ("PROXY_MESH_KEY", KEY),
            ("PROXY_GRACE_QUIT_TIMEOUT", "3s"),
            ("PROXY_FORCE_QUIT_TIMEOUT", "10s"),
        ];
        settings.extend(node.host.as_deref().map(|host| ("PROXY_MESH_ADVERTISE_HOST", host)));
        node.proxy = Some(match &node.namespace {
            Some(namespace) => Proxy::start_in(namespace, &settings),
            None => Proxy::start_with(&settings),
        });
    }

    /// Moves a node that does not run.
    pub fn move_node(&mut self, n: usize, namespace: &Namespace) {
        let host = self.nodes[n].host.take();
        self.nodes[n] = Node::inside(namespace, host);
    }

    /// A node that runs.
    pub fn node(&self, n: usize) -> &Proxy {
        self.nodes[n].proxy.as_ref().expect("the node runs")
    }

    /// A node that runs, to wait for its end.
    pub fn node_mut(&mut self, n: usize) -> &mut Proxy {
        self.nodes[n].proxy.as_mut().expect("the node runs")
    }

    /// Kills a node at once, as `kill -9` or a power cut does; or forgets one that has ended.
    pub fn kill(&mut self, n: usize) {
        self.nodes[n].proxy = None;
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Proxy> {
        self.nodes.iter().filter_map(|node| node.proxy.as_ref())
    }

    /// Waits until all nodes that run take clients and see the same nodes.
    pub fn wait_until_settled(&self) {
        let running: Vec<_> = self.running().collect();
        wait_for("all nodes are ready", LIMIT, || running.iter().all(|node| is_ready(node)));
        wait_for("all nodes see the same nodes", LIMIT, || running.iter().all(|node| sees(node, running.len())));
    }

    /// Waits until these nodes see each other and nobody else.
    pub fn wait_until_alone(&self, nodes: &[usize]) {
        wait_for(&format!("{nodes:?} see only each other"), LIMIT, || {
            nodes.iter().all(|n| sees(self.node(*n), nodes.len()))
        });
    }

    /// Waits until all nodes that run say that the stream is on this origin.
    pub fn wait_until_placed(&self, stream: &str, origin: &str, limit: Duration) {
        wait_for(&format!("all nodes say that {stream} is on {origin}"), limit, || {
            self.running().all(|node| placed(node, stream).as_deref() == Some(origin))
        });
    }
}

impl Node {
    fn inside(namespace: &Namespace, host: Option<String>) -> Self {
        let at = |port| SocketAddr::from((namespace.mesh(), port));
        Self { proxy: None, namespace: Some(namespace.clone()), gossip: at(12026), grpc: at(12027), host }
    }
}

/// Where a node says that a stream is.
pub fn placed(node: &Proxy, stream: &str) -> Option<String> {
    let stream = format!("__defaultVhost__/{stream}");
    let streams = node.streams();
    let placement = streams.iter().find(|placement| placement["stream"] == stream.as_str())?;
    Some(placement["origin"].as_str().expect("the origin's id").to_owned())
}

fn is_ready(node: &Proxy) -> bool {
    http::get(node.api(), "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// Whether a node says that all agree, and that so many serve.
fn sees(node: &Proxy, count: usize) -> bool {
    let cluster = node.get("/api/v1/proxy/cluster");
    let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let serving = members.iter().filter(|m| m["live"] == true && m["state"] == "serving" && m["same_view"] == true);
    cluster["stable"] == true && serving.count() == count
}

/// A port that neither TCP nor UDP uses.
fn free() -> SocketAddr {
    loop {
        let free = free_port();
        if UdpSocket::bind(free).is_ok() {
            return free;
        }
    }
}
