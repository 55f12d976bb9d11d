//! Two nodes are asked for one fresh name at the same moment. Both must say the same origin.

use std::{collections::BTreeSet, net::SocketAddr, process::Command};

use tokio::sync::Barrier;

use crate::{
    Result,
    client::{Client, Failure, key},
    fleet::{Fleet, Kind, each},
    options::Options,
    report::Report,
    support::{
        LIMIT, Process,
        ports::{free_port, is_listening},
        wait_for,
    },
};

/// Races at once.
const WIDTH: usize = 2;
const NODES: usize = 3;

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    race(Kind::Mesh, "mesh", options, report).await?;
    let directory = tempfile::tempdir()?;
    let address = free_port();
    let mut command = Command::new("redis-server");
    if command.arg("--version").output().is_err() {
        report.state("Redis", "skipped: redis-server is not installed");
        return Ok(());
    }
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""]);
    let redis = Process::spawn("redis-server", command.current_dir(directory.path()));
    wait_for("redis-server listens", LIMIT, || is_listening(address));
    race(Kind::Redis(address), "Redis", options, report).await?;
    drop(redis);
    Ok(())
}

async fn race(kind: Kind, title: &str, options: &Options, report: &mut Report) -> Result<()> {
    // Long enough for all placements to be there at the end.
    let fleet = Fleet::loopback(options.proxy.clone(), kind, NODES, &[("PROXY_PLACEMENT_HOLD", "10m")]).await?;
    let nodes: Vec<_> = (0..NODES).map(|n| fleet.rtmp(n)).collect();
    let name = |n: usize| format!("race-{n}");
    let races = each(options.tries, WIDTH, |n| {
        let (a, b) = (nodes[n % NODES], nodes[(n + 1) % NODES]);
        contend(a, b, name(n), n % 2 == 0)
    })
    .await?;
    let unclear: Vec<_> = races.iter().flatten().filter(|failure| !failure.is_clear()).collect();
    for failure in unclear.iter().take(5) {
        eprintln!("  {failure}");
    }
    // What the origins saw is what counts.
    let split = (0..options.tries).filter(|n| fleet.asked_at(&name(*n)).len() != 1).count();
    report.right(
        format!("two nodes race for one fresh name, {title}: origins that were asked"),
        format!("{split} splits in {}", options.tries),
        "0",
        split == 0,
    );
    report.right(format!("{title}: neither answered nor clearly refused"), unclear.len(), "0", unclear.is_empty());

    // Nodes learn of placements that they did not make by gossip, or when they are asked.
    for n in 0..NODES {
        fleet.wait_for_placements(n, if kind == Kind::Mesh { options.tries } else { 1 }).await?;
    }
    let mut lists = Vec::new();
    for n in 0..NODES {
        lists.push(fleet.placements(n).await?);
    }
    let differing = (0..options.tries)
        .filter(|n| {
            let name = name(*n);
            let listed: BTreeSet<_> =
                lists.iter().filter_map(|list| list.get(&key(&name))).map(|p| &p.origin).collect();
            let asked = fleet.asked_at(&name);
            !listed.iter().all(|id| fleet.origins.iter().any(|o| o.id() == **id && asked.contains(&o.name.as_str())))
        })
        .count();
    report.right(
        format!("{title}: names of which a node says another origin afterwards"),
        differing,
        "0",
        differing == 0,
    );
    Ok(())
}

/// Publishes on both nodes at once, or publishes on one and plays on the other. Gives the failures;
/// one of two publishers is to be refused, and a player that comes first may be.
async fn contend(a: SocketAddr, b: SocketAddr, name: String, publish: bool) -> Vec<Failure> {
    let clients = tokio::try_join!(Client::open(a), Client::open(b));
    let (mut one, mut other) = match clients {
        Ok(clients) => clients,
        Err(failure) => return vec![failure],
    };
    let start = Barrier::new(2);
    let (first, second) = tokio::join!(
        async {
            start.wait().await;
            one.publish(&name).await
        },
        async {
            start.wait().await;
            if publish { other.publish(&name).await } else { other.play(&name).await }
        }
    );
    let mut failures: Vec<_> = [first, second].into_iter().filter_map(Result::err).collect();
    if publish && failures.is_empty() {
        failures.push(Failure::Broken("both publish".into()));
    }
    failures
}
