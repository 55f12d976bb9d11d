//! The choice of an origin for a fresh stream. Pure: candidates and randomness in, a choice out.

use std::cmp::Ordering;

use rand::{Rng, RngExt};

use crate::config::Policy;

/// CPU use that is assumed of an origin which does not tell its own.
const UNKNOWN_CPU: f32 = 0.5;

/// How much an origin has to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Streams placed on it.
    pub streams: usize,
    /// CPU use from 0 to 1, where its heartbeat tells it.
    pub cpu: Option<f32>,
}

impl Load {
    /// Orders by streams, then by CPU use. An unknown CPU use counts as half.
    pub fn compare(&self, other: &Self) -> Ordering {
        self.streams.cmp(&other.streams).then_with(|| self.cpu_or_middle().total_cmp(&other.cpu_or_middle()))
    }

    fn cpu_or_middle(&self) -> f32 {
        self.cpu.filter(|cpu| cpu.is_finite()).map_or(UNKNOWN_CPU, |cpu| cpu.clamp(0.0, 1.0))
    }
}

/// The index of the origin to take, or `None` if there is no candidate.
///
/// Power of two choices takes the less loaded of two that are picked at random. That spreads almost
/// as well as taking the least loaded of all, and nodes whose knowledge of the load is a little old
/// do not all rush to the same origin.
pub fn choose<R: Rng + ?Sized>(candidates: &[Load], policy: Policy, rng: &mut R) -> Option<usize> {
    if candidates.len() < 2 {
        return (!candidates.is_empty()).then_some(0);
    }
    let first = rng.random_range(0..candidates.len());
    match policy {
        Policy::Random => Some(first),
        Policy::PowerOfTwo => {
            let other = rng.random_range(0..candidates.len() - 1);
            let second = if other < first { other } else { other + 1 };
            let better = candidates[second].compare(&candidates[first]) == Ordering::Less;
            Some(if better { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn load() -> impl Strategy<Value = Load> {
        let cpu = prop_oneof![Just(None), any::<f32>().prop_map(Some), (0.0f32..=1.0).prop_map(Some)];
        (0usize..5, cpu).prop_map(|(streams, cpu)| Load { streams, cpu })
    }

    fn policy() -> impl Strategy<Value = Policy> {
        prop_oneof![Just(Policy::PowerOfTwo), Just(Policy::Random)]
    }

    proptest! {
        #[test]
        fn a_candidate_is_chosen_whenever_there_is_one(
            loads in prop::collection::vec(load(), 0..20), policy in policy(), seed: u64,
        ) {
            let chosen = choose(&loads, policy, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(chosen.is_some(), !loads.is_empty());
            prop_assert!(chosen.is_none_or(|i| i < loads.len()));
        }

        #[test]
        fn of_two_the_more_loaded_is_never_chosen(a in load(), b in load(), seed: u64) {
            let loads = [a, b];
            let chosen = choose(&loads, Policy::PowerOfTwo, &mut StdRng::seed_from_u64(seed)).unwrap();
            prop_assert_ne!(loads[chosen].compare(&loads[1 - chosen]), Ordering::Greater);
        }

        #[test]
        fn the_single_most_loaded_of_many_is_never_chosen(
            mut loads in prop::collection::vec(load(), 2..20), at: prop::sample::Index, seed: u64,
        ) {
            let at = at.index(loads.len());
            loads[at].streams = 100;
            prop_assert_ne!(choose(&loads, Policy::PowerOfTwo, &mut StdRng::seed_from_u64(seed)), Some(at));
        }

        #[test]
        fn loads_are_totally_ordered(a in load(), b in load(), c in load()) {
            prop_assert_eq!(a.compare(&b), b.compare(&a).reverse());
            if a.compare(&b) != Ordering::Greater && b.compare(&c) != Ordering::Greater {
                prop_assert_ne!(a.compare(&c), Ordering::Greater);
            }
        }
    }

    /// Places `streams` streams one after the other and counts them by origin.
    fn spread(origins: usize, streams: usize, policy: Policy) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut loads = vec![Load { streams: 0, cpu: None }; origins];
        for _ in 0..streams {
            let chosen = choose(&loads, policy, &mut rng).unwrap();
            loads[chosen].streams += 1;
        }
        loads.iter().map(|load| load.streams).collect()
    }

    #[test]
    fn power_of_two_choices_keeps_origins_within_a_few_streams_of_each_other() {
        let counts = spread(10, 10_000, Policy::PowerOfTwo);
        assert!(counts.iter().all(|n| n.abs_diff(1000) <= 10), "{counts:?}");
    }

    #[test]
    fn random_choice_gives_each_origin_its_share() {
        let counts = spread(10, 10_000, Policy::Random);
        assert!(counts.iter().all(|n| n.abs_diff(1000) <= 200), "{counts:?}");
    }

    #[test]
    fn equal_origins_are_chosen_equally_often() {
        let mut rng = StdRng::seed_from_u64(7);
        let loads = [Load { streams: 3, cpu: None }, Load { streams: 3, cpu: Some(0.5) }];
        let first = (0..10_000).filter(|_| choose(&loads, Policy::PowerOfTwo, &mut rng) == Some(0)).count();
        assert!(first.abs_diff(5000) <= 300, "{first}");
    }

    #[test]
    fn cpu_decides_between_origins_with_equally_many_streams() {
        let idle = Load { streams: 1, cpu: Some(0.1) };
        let unknown = Load { streams: 1, cpu: None };
        let busy = Load { streams: 1, cpu: Some(0.9) };
        let empty = Load { streams: 0, cpu: Some(1.0) };
        for pair in [[idle, unknown], [unknown, busy], [idle, busy], [empty, idle]] {
            assert_eq!(pair[0].compare(&pair[1]), Ordering::Less, "{pair:?}");
        }
    }
}
