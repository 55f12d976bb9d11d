//! How many connections there may be, in all and from one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::log_throttle::LogThrottle;
use crate::metrics::{ListenerMetrics, Open, label::Limit};
use crate::sync::lock;

/// How often a refusal is logged at the most.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// Counts connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    complaints: LogThrottle<&'static str>,
    limits: Limits,
    metrics: ListenerMetrics,
}

/// How many connections there may be at once, and which settings say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub max: usize,
    /// From one address.
    pub max_per_ip: usize,
    /// The settings that hold `max` and `max_per_ip`.
    pub settings: [&'static str; 2],
}

#[derive(Debug, Default)]
struct State {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// A connection's place, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Admission,
    ip: IpAddr,
    _open: Open,
}

impl Admission {
    /// Admits up to `limits`, and counts in `metrics`.
    pub fn new(limits: Limits, metrics: ListenerMetrics) -> Self {
        let (state, complaints) = (Mutex::default(), LogThrottle::new(LOG_PERIOD, 2));
        Self { inner: Arc::new(Inner { state, complaints, limits, metrics }) }
    }

    /// A place for a connection from `ip`, unless a limit is reached.
    pub fn admit(&self, ip: IpAddr) -> Option<Permit> {
        let mut state = self.lock();
        let from_ip = state.by_ip.get(&ip).copied().unwrap_or_default();
        let Limits { max, max_per_ip, settings: [total, per_ip] } = self.inner.limits;
        let (limit, counted) = if state.total >= max {
            (total, Limit::Total)
        } else if from_ip >= max_per_ip {
            (per_ip, Limit::Address)
        } else {
            state.total += 1;
            *state.by_ip.entry(ip).or_default() += 1;
            return Some(Permit { admission: self.clone(), ip, _open: self.inner.metrics.accepted() });
        };
        let connections = state.total;
        drop(state);
        self.inner.metrics.refused(counted);
        if let Some(held_back) = self.inner.complaints.admit(&limit) {
            tracing::warn!(%ip, limit, from_ip, connections, held_back, "connection refused: a limit is reached");
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.total -= 1;
        if let Some(count) = state.by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                state.by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let admission =
            Admission::new(Limits { max: 3, max_per_ip: 2, settings: ["ALL", "ONE"] }, ListenerMetrics::default());
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let held: Vec<_> = (0..2).map(|_| admission.admit(a).unwrap()).collect();
        assert!(admission.admit(a).is_none(), "the limit of one address");
        let other = admission.admit(b).unwrap();
        assert!(admission.admit(b).is_none(), "the limit of all");
        drop((held, other));
        assert!(admission.admit(a).is_some());
        assert!(admission.lock().by_ip.is_empty(), "nothing is remembered of those that are gone");
    }
}
