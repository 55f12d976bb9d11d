//! Five nodes are cut apart into three and two. Both sides publish the same names; then the network
//! is whole again.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    Result, api,
    client::{self, Failure, Held, Role, key},
    fleet::{Fleet, Kind, Place, is_settled},
    options::Options,
    report::{Report, seconds},
    support::netns::{Namespace, Network},
};

const NODES: usize = 5;
/// Nodes that are on the smaller side.
const AWAY: usize = 2;
const NAMES: usize = 100;
const FRAME: Duration = Duration::from_millis(100);
const TARGET: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
/// How long the winners are watched after all is settled.
const WATCH: Duration = Duration::from_secs(5);

/// A stream on one side of the cut.
struct Side {
    publisher: Held,
    player: Held,
}

pub async fn run(options: &Options, network: &Network, report: &mut Report) -> Result<()> {
    let mut fleet = Fleet::new(options.proxy.clone(), Kind::Mesh, &[])?;
    let spaces: Vec<Namespace> = (0..NODES).map(|n| network.add(n as u8 + 10)).collect();
    for space in &spaces {
        fleet.add(Place::inside(space), &[]);
    }
    fleet.start_all().await?;
    fleet.add_origins(6, network.hub().edge()).await?;

    let away = &spaces[NODES - AWAY..];
    network.split(away);
    let cut = Instant::now();
    wait_until_apart(&fleet).await?;
    report.state("from the cut until both sides have noticed", seconds(cut.elapsed()));

    let (mut here, mut there) = (Vec::new(), Vec::new());
    for n in 0..NAMES {
        let name = format!("torn-{n}");
        // Either side comes first as often as the other.
        let here_first = n % 2 == 0;
        for is_here in [here_first, !here_first] {
            let nodes = if is_here { 0..NODES - AWAY } else { NODES - AWAY..NODES };
            let (first, count) = (nodes.start, nodes.len());
            let [one, other] = [n, n + 1].map(|k| fleet.rtmp(first + k % count));
            let side = begin(one, other, &name).await;
            if is_here { here.push(side) } else { there.push(side) }
        }
    }
    let twice = (0..NAMES).filter(|n| fleet.published_at(&format!("torn-{n}")).len() == 2).count();
    report.state(format!("of {NAMES} names published on both sides, on two origins"), twice);
    let refused = here.iter().chain(&there).filter(|side| side.is_err()).count();
    // The random choice of both sides can be the same origin, which takes one publisher only.
    report.state("publishers refused because both sides chose one origin", refused);

    network.heal(away);
    let healed = Instant::now();
    let one_each = wait_until_one(&fleet, healed).await;
    report.right(
        "from the heal until every name is on one origin",
        one_each.map_or_else(|| format!("not within {}", seconds(LIMIT)), seconds),
        "≤ 5 s",
        one_each.is_some_and(|took| took <= TARGET),
    );
    let settled = fleet.stable().await?;
    report.state("and until all nodes see each other, after that", seconds(settled));
    sleep(WATCH).await;
    judge(&fleet, here, there, report).await
}

/// Begins to publish and to play on two nodes of one side.
async fn begin(one: SocketAddr, other: SocketAddr, name: &str) -> Result<Side, Failure> {
    let publisher = client::publisher(one, name).await?;
    let publisher = Held::new(publisher, name, Role::Publisher(FRAME));
    let player = client::player(other, name).await?;
    Ok(Side { publisher, player: Held::new(player, name, Role::Player) })
}

async fn wait_until_apart(fleet: &Fleet) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut apart = 0;
        for n in 0..NODES {
            let expected = if n < NODES - AWAY { NODES - AWAY } else { AWAY };
            apart += usize::from(is_settled(&api::cluster(fleet.nodes[n].place.api).await?, expected));
        }
        if apart == NODES {
            return Ok(());
        }
        if started.elapsed() > LIMIT {
            return Err("the nodes do not notice the cut".into());
        }
        sleep(LOOK).await;
    }
}

/// Waits until no name is on two origins, and all nodes say the same of all names.
async fn wait_until_one(fleet: &Fleet, healed: Instant) -> Option<Duration> {
    while healed.elapsed() < LIMIT {
        let torn = (0..NAMES).any(|n| fleet.published_at(&format!("torn-{n}")).len() > 1);
        if !torn {
            let mut said = BTreeSet::new();
            for n in 0..NODES {
                let placements = fleet.placements(n).await.ok()?;
                let names = (0..NAMES).map(|n| placements.get(&key(&format!("torn-{n}"))).map(|p| p.origin.clone()));
                said.insert(names.collect::<Vec<_>>());
            }
            if said.len() == 1 && said.iter().flatten().all(Option::is_some) {
                return Some(healed.elapsed());
            }
        }
        sleep(LOOK).await;
    }
    None
}

async fn judge(
    fleet: &Fleet,
    here: Vec<Result<Side, Failure>>,
    there: Vec<Result<Side, Failure>>,
    report: &mut Report,
) -> Result<()> {
    let (mut winners, mut disturbed, mut untold, mut both_lost, mut unlike) = (0, 0, 0, 0, 0);
    let placements = fleet.placements(0).await?;
    for sides in here.into_iter().zip(there) {
        let (one, other) = sides;
        let contested = one.is_ok() && other.is_ok();
        let sides: Vec<Side> = [one, other].into_iter().filter_map(Result::ok).collect();
        let (lost, won): (Vec<_>, Vec<_>) = sides.into_iter().partition(|side| side.publisher.end().is_some());
        both_lost += usize::from(won.is_empty() && contested);
        for side in won {
            winners += 1;
            disturbed += usize::from(!side.player.is_undisturbed() || side.player.frames() == 0);
            let origin = placements.get(&key(&side.publisher.name)).map(|placed| placed.origin.clone());
            unlike += usize::from(fleet.published_at(&side.publisher.name) != origin.into_iter().collect::<Vec<_>>());
        }
        for side in lost {
            let told = side.publisher.end().is_some_and(|why| why.is_clear());
            untold += usize::from(!told);
        }
    }
    report.right(format!("winners' players that missed a frame, of {winners}"), disturbed, "0", disturbed == 0);
    report.right("names of which no publisher was left", both_lost, "0", both_lost == 0);
    report.right("winners that are not where the nodes say", unlike, "0", unlike == 0);
    report.right("losing publishers that were closed without a status", untold, "0", untold == 0);
    Ok(())
}
