//! The rules of the mesh (src/balancer/mesh/RULES.md) under trouble: the very code of a node on a
//! simulated network and clock, with all chance from a seed. A failure prints the seed; run it alone
//! with `SIMULATION_SEED=n cargo test --test simulation`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod network;
mod world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use world::{Summary, Trouble, World};

/// How many seeds each test tries unless `SIMULATION_SEEDS` says otherwise: few, for an unoptimized
/// build. `tests/run.sh` has thousands tried.
const SEEDS: u64 = 20;

fn simulate(seed: u64, trouble: Trouble) -> Result<Summary, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed, trouble);
        let count = 2 + seed % 4;
        let names: Vec<_> = (0..count).map(|n| format!("node-{n}")).collect();
        tokio::spawn(world.network.clone().run());
        tokio::spawn(world.clone().heartbeats());
        for name in &names {
            world.start(name, true);
        }
        tokio::spawn(world.clone().clients());
        world.trouble(&names, Duration::from_secs(15)).await;
        let summary = world.agree(&names).await;
        world.failure().map_or(Ok(summary), Err)
    })
}

/// Runs many seeds on all cores; gives what was seen in all.
fn try_seeds(trouble: Trouble) -> Summary {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SIMULATION_SEED") {
        return simulate(seed, trouble).unwrap_or_else(|failure| panic!("{failure}"));
    }
    let (next, end) = (AtomicU64::new(0), number("SIMULATION_SEEDS").unwrap_or(SEEDS));
    let total = Mutex::new(Summary::default());
    let started = Instant::now();
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return;
                        }
                        let one = match simulate(seed, trouble) {
                            Ok(one) => one,
                            Err(failure) => {
                                next.store(end, Ordering::Relaxed);
                                panic!("{failure}");
                            }
                        };
                        let mut total = total.lock().unwrap();
                        total.placed += one.placed;
                        total.refused += one.refused;
                        total.conflicts += one.conflicts;
                        total.claims += one.claims;
                        total.adopted += one.adopted;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap_or_else(|failure| std::panic::resume_unwind(failure));
        }
    });
    let total = *total.lock().unwrap();
    println!("{trouble:?}: {end} seeds in {:?}: {total:?}", started.elapsed());
    total
}

#[test]
fn streams_in_use_stay_where_they_are_while_nodes_come_and_go() {
    let seen = try_seeds(Trouble::Nodes);
    assert!(seen.placed > 0);
}

#[test]
fn a_stream_has_one_origin_at_each_epoch_while_origins_die_too() {
    let seen = try_seeds(Trouble::Origins);
    assert!(seen.placed > 0);
}

#[test]
fn all_nodes_agree_soon_after_any_trouble_of_the_network() {
    let seen = try_seeds(Trouble::Network);
    assert!(seen.placed > 0);
}
