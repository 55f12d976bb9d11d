//! Two of five nodes are reached over bad links. Nobody must be taken for dead.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    Result, api,
    client::{self, Failure, Held, Role},
    fleet::{Fleet, Kind, Place},
    links::{Link, Weather},
    options::Options,
    report::{Report, Times},
};

const NODES: usize = 5;
/// Nodes to which links are bad.
const BAD: usize = 2;
const BAD_WEATHER: Weather = Weather { delay: Duration::from_millis(100), loss: 20 };
const GOOD_WEATHER: Weather = Weather { delay: Duration::ZERO, loss: 0 };
const WATCH: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
const FRAME: Duration = Duration::from_millis(500);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let mut fleet = Fleet::new(options.proxy.clone(), Kind::Mesh, &[])?;
    let mut links = Vec::new();
    for n in 0..NODES {
        let address = Ipv4Addr::new(127, 0, 2, n as u8 + 1);
        let place = Place::loopback();
        let weather = if n < BAD { BAD_WEATHER } else { GOOD_WEATHER };
        links.push(Link::start(address, place.gossip, place.grpc, weather).await?);
        fleet.add(place, &[("PROXY_MESH_ADVERTISE_HOST", &address.to_string())]);
    }
    let seeds: Vec<_> = fleet
        .nodes
        .iter()
        .enumerate()
        .map(|(n, node)| format!("127.0.2.{}:{}", n + 1, node.place.gossip.port()))
        .collect();
    fleet.set_seeds(&seeds.join(","));
    fleet.start_all().await?;
    fleet.add_origins(4, Ipv4Addr::LOCALHOST).await?;

    let mut flaps = 0;
    let mut last = vec![everybody(); NODES];
    let (mut held, mut times, mut failures): (Vec<Held>, Vec<Duration>, Vec<Failure>) = Default::default();
    let started = Instant::now();
    for round in 0.. {
        if started.elapsed() >= WATCH {
            break;
        }
        for (n, seen) in last.iter_mut().enumerate() {
            let now = live(&api::cluster(fleet.nodes[n].place.api).await?);
            flaps += usize::from(*seen != now);
            *seen = now;
        }
        let name = format!("weather-{round}");
        let (one, other) = (fleet.rtmp(round % NODES), fleet.rtmp((round + 1) % NODES));
        let asked = Instant::now();
        match client::publisher(one, &name).await {
            Ok(publisher) => {
                times.push(asked.elapsed());
                held.push(Held::new(publisher, &name, Role::Publisher(FRAME)));
                failures.extend(client::player(other, &name).await.err());
            }
            Err(failure) => failures.push(failure),
        }
        sleep(LOOK).await;
    }
    report.right(
        format!("changes of who is alive, in {} s, as {NODES} nodes see it", WATCH.as_secs()),
        flaps,
        "0",
        flaps == 0,
    );
    for failure in failures.iter().take(5) {
        eprintln!("  {failure}");
    }
    // A home that takes longer to answer than nodes wait for it is passed over, and may decide as well.
    report.good(
        format!("published on one node, played on the next, of {}: failed", held.len()),
        failures.len(),
        "0",
        failures.is_empty(),
    );
    report.state("connect and publish meanwhile", times.into_iter().collect::<Times>());
    let disturbed = held.iter().filter(|session| !session.is_undisturbed()).count();
    report.good("publishers disturbed", disturbed, "0", disturbed == 0);
    Ok(())
}

fn everybody() -> BTreeSet<String> {
    (0..NODES).map(|n| format!("node-{n}")).collect()
}

/// Who is alive, as a node says.
fn live(cluster: &serde_json::Value) -> BTreeSet<String> {
    let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().filter(|m| m["live"] == true).filter_map(|m| m["node"].as_str()).map(str::to_owned).collect()
}
