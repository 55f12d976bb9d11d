//! How many connections there may be, in all and from one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{config, server::throttle::Throttle};

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
    complaints: Throttle<&'static str>,
    max: usize,
    max_per_ip: usize,
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
}

impl Admission {
    /// With the limits of `settings`.
    pub fn new(settings: &config::Rtmp) -> Self {
        Self::with_limits(settings.max_connections, settings.max_connections_per_ip)
    }

    fn with_limits(max: usize, max_per_ip: usize) -> Self {
        let (state, complaints) = (Mutex::default(), Throttle::new(LOG_PERIOD, 2));
        Self { inner: Arc::new(Inner { state, complaints, max, max_per_ip }) }
    }

    /// A place for a connection from `ip`, unless a limit is reached.
    pub fn admit(&self, ip: IpAddr) -> Option<Permit> {
        let mut state = self.lock();
        let from_ip = state.by_ip.get(&ip).copied().unwrap_or_default();
        let limit = if state.total >= self.inner.max {
            "PROXY_RTMP_MAX_CONNECTIONS"
        } else if from_ip >= self.inner.max_per_ip {
            "PROXY_RTMP_MAX_CONNECTIONS_PER_IP"
        } else {
            state.total += 1;
            *state.by_ip.entry(ip).or_default() += 1;
            return Some(Permit { admission: self.clone(), ip });
        };
        let connections = state.total;
        drop(state);
        if let Some(held_back) = self.inner.complaints.admit(&limit) {
            tracing::warn!(%ip, limit, from_ip, connections, held_back, "RTMP connection refused: a limit is reached");
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let admission = Admission::with_limits(3, 2);
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
