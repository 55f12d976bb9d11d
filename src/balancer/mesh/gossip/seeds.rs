//! Where other nodes may be found. Names are looked up by threads of the runtime that may block, so
//! that gossip does not wait for them.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::lookup_host,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use crate::config::Seed;
use crate::sync::lock;

/// How long a name may take to be looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often names are looked up while no other node is seen.
pub const LOOKUP_INTERVAL_ALONE: Duration = Duration::from_secs(2);
/// How often they are looked up otherwise.
pub const LOOKUP_INTERVAL: Duration = Duration::from_secs(60);
/// How often a failure is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// The most addresses that seeds may stand for.
const MAX_ADDRESSES: usize = 256;

/// The addresses that the seeds stand for.
#[derive(Debug, Clone, Default)]
pub struct Addresses(Arc<Mutex<BTreeSet<SocketAddr>>>);

impl Addresses {
    /// The addresses that were found last.
    pub fn get(&self) -> Vec<SocketAddr> {
        lock(&self.0).iter().copied().collect()
    }

    fn set(&self, found: BTreeSet<SocketAddr>) {
        *lock(&self.0) = found;
    }
}

/// Looks up seeds.
#[derive(Debug)]
pub struct Resolver {
    seeds: Vec<Seed>,
    last_logged: Option<Instant>,
    failing: bool,
}

impl Resolver {
    /// Looks up these.
    pub fn new(seeds: Vec<Seed>) -> Self {
        Self { seeds, last_logged: None, failing: false }
    }

    /// Looks up all seeds once. Those of a seed that fails stay as they were, unless others are found.
    pub async fn resolve(&mut self, addresses: &Addresses) {
        let mut found = BTreeSet::new();
        let mut failed = Vec::new();
        for seed in &self.seeds {
            match lookup(seed).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => failed.push(format!("{seed}: {error}")),
            }
        }
        while found.len() > MAX_ADDRESSES {
            found.pop_last();
        }
        if !failed.is_empty() {
            found.extend(addresses.get().into_iter().take(MAX_ADDRESSES - found.len()));
        }
        addresses.set(found);
        self.log_failures(&failed);
    }

    fn log_failures(&mut self, failed: &[String]) {
        let now = Instant::now();
        if failed.is_empty() {
            if std::mem::take(&mut self.failing) {
                info!("mesh seeds resolved again");
            }
        } else if self.last_logged.is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_INTERVAL) {
            self.last_logged = Some(now);
            self.failing = true;
            warn!(seeds = failed.join(", "), "mesh seeds not resolved");
        }
    }
}

/// The addresses that a seed stands for.
pub async fn lookup(seed: &Seed) -> Result<Vec<SocketAddr>, String> {
    match timeout(LOOKUP_TIMEOUT, lookup_host((seed.host.as_str(), seed.port))).await {
        Err(_) => Err(format!("not within {LOOKUP_TIMEOUT:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(addresses)) => Ok(addresses.collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(host: &str, port: u16) -> Seed {
        Seed { host: host.into(), port }
    }

    #[tokio::test]
    async fn names_and_addresses_are_looked_up_and_a_failure_does_not_lose_what_was_known() {
        let addresses = Addresses::default();
        Resolver::new(vec![seed("127.0.0.1", 1), seed("::1", 2)]).resolve(&addresses).await;
        let known = addresses.get();
        assert_eq!(known, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);

        let mut failing = Resolver::new(vec![seed("no-such-host.invalid", 3), seed("127.0.0.1", 4)]);
        failing.resolve(&addresses).await;
        assert!(failing.failing);
        assert!(known.iter().all(|address| addresses.get().contains(address)));
        assert!(addresses.get().contains(&"127.0.0.1:4".parse().unwrap()));
    }
}
