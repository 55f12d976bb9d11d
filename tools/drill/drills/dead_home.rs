//! A node is killed, or freezes. From then on, how are requests answered for streams whose home it was?

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};

use crate::{
    Result,
    client::{self, Client, Failure, Held, Role},
    fleet::{Fleet, Kind},
    options::Options,
    report::{Report, Times, ms, seconds},
};

const NODES: usize = 3;
/// Streams that are published before, through the nodes that stay.
const KNOWN: usize = 300;
/// How often a fresh name is asked for, through both nodes that stay, and for how long.
const PERIOD: Duration = Duration::from_millis(15);
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(8);
/// An answer that had to wait for somebody's silence takes longer than this.
const PROMPT: Duration = Duration::from_millis(200);
const TARGET: Duration = Duration::from_secs(3);

/// A request for a fresh name through two nodes.
struct Asked {
    name: String,
    at: Instant,
    /// How long the slower of the two answers took.
    took: Duration,
    failures: Vec<Failure>,
}

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    lose(options, "kill -9", |fleet| fleet.kill(NODES - 1), report).await?;
    // A host that is gone refuses no connection; it says nothing.
    let freeze = |fleet: &mut Fleet| {
        if let Some(process) = &fleet.nodes[NODES - 1].process {
            process.signal(Signal::STOP);
        }
    };
    lose(options, "SIGSTOP", freeze, report).await
}

/// Loses the last node.
async fn lose(options: &Options, how: &str, strike: impl FnOnce(&mut Fleet), report: &mut Report) -> Result<()> {
    let mut fleet = Fleet::loopback(options.proxy.clone(), Kind::Mesh, NODES, &[]).await?;
    let (a, b) = (fleet.rtmp(0), fleet.rtmp(1));
    let mut held = Vec::new();
    for n in 0..KNOWN {
        let name = format!("known-{n}");
        let client = client::publisher([a, b][n % 2], &name).await?;
        held.push(Held::new(client, &name, Role::Publisher(Duration::from_millis(500))));
    }

    let stop = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask_all_the_time(a, b, Arc::clone(&stop)));
    sleep(BEFORE).await;
    strike(&mut fleet);
    let killed = Instant::now();
    let known = play_known(b, a, &held).await;
    sleep(AFTER.saturating_sub(killed.elapsed())).await;
    stop.store(true, Ordering::Relaxed);
    let asked = asking.await??;

    let after: Vec<_> = asked.iter().filter(|asked| asked.at >= killed).collect();
    let restored = after
        .iter()
        .filter(|asked| asked.took > PROMPT || asked.failures.iter().any(|failure| !is_ordinary(failure)))
        .map(|asked| asked.at.duration_since(killed) + asked.took)
        .max()
        .unwrap_or_default();
    report.state(format!("{how}: until no answer takes longer than {} any more", ms(PROMPT)), seconds(restored));
    let longest: Times = after.iter().map(|asked| asked.took).collect();
    report.right(
        format!("{how}: longest answer among {} after it", after.len()),
        seconds(longest.max()),
        "≤ 3 s",
        longest.max() <= TARGET,
    );
    let unclear: Vec<_> =
        after.iter().flat_map(|asked| &asked.failures).filter(|failure| !failure.is_clear()).collect();
    for failure in unclear.iter().take(5) {
        eprintln!("  {failure}");
    }
    report.right(format!("{how}: neither answered nor clearly refused"), unclear.len(), "0", unclear.is_empty());
    let refused = after.iter().filter(|asked| asked.failures.iter().any(|failure| !is_ordinary(failure))).count();
    report.state(format!("{how}: refused for want of a placement"), refused);
    let split = asked.iter().filter(|asked| fleet.asked_at(&asked.name).len() > 1).count();
    report.right(format!("{how}: placed twice, of {}", asked.len()), split, "0", split == 0);
    let missed = known.iter().filter(|played| played.is_err()).count();
    for failure in known.iter().filter_map(|played| played.as_ref().err()).take(5) {
        eprintln!("  {failure}");
    }
    report.right(format!("{how}: players of {KNOWN} known streams that failed in that time"), missed, "0", missed == 0);
    let disturbed = held.iter().filter(|session| !session.is_undisturbed()).count();
    report.right(format!("{how}: sessions through other nodes that were disturbed"), disturbed, "0", disturbed == 0);
    Ok(())
}

/// What a client may be told although all nodes are well: that another publishes.
fn is_ordinary(failure: &Failure) -> bool {
    failure.code() == "NetStream.Publish.BadName"
}

async fn ask_all_the_time(a: SocketAddr, b: SocketAddr, stop: Arc<AtomicBool>) -> Result<Vec<Asked>> {
    let mut requests = JoinSet::new();
    let mut tick = interval(PERIOD);
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tick.tick().await;
        requests.spawn(ask(a, b, format!("fresh-{n}")));
    }
    let mut asked = Vec::new();
    while let Some(done) = requests.join_next().await {
        asked.push(done?);
    }
    Ok(asked)
}

/// Publishes a fresh name on both nodes at once.
async fn ask(a: SocketAddr, b: SocketAddr, name: String) -> Asked {
    let opened = tokio::try_join!(Client::open(a), Client::open(b));
    let at = Instant::now();
    let failures = match opened {
        Ok((mut one, mut other)) => {
            let (one, other) = tokio::join!(one.publish(&name), other.publish(&name));
            [one, other].into_iter().filter_map(Result::err).collect()
        }
        Err(failure) => vec![failure],
    };
    Asked { name, at, took: at.elapsed(), failures }
}

async fn play_known(b: SocketAddr, a: SocketAddr, held: &[Held]) -> Vec<Result<Client, Failure>> {
    let mut played = Vec::new();
    for (n, session) in held.iter().enumerate() {
        // Through the node that did not place it.
        played.push(client::player([b, a][n % 2], &session.name).await);
    }
    played
}
