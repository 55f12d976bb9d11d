//! Who decides on a stream right now, where that is not settled by who its home is (rule 8). Pure:
//! the time comes in.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{member::Address, record::NodeId, view::rank};
use crate::stream::StreamKey;

/// How long a node holds back for another that claims a stream. Longer than a claim and the news of
/// what came of it take.
pub const GRANT: Duration = Duration::from_secs(2);

/// A claim of this node.
#[derive(Debug)]
struct Mine<W> {
    /// Who goes before.
    lost: Option<Address>,
    ended: W,
}

/// All claims that a node knows. `W` is what those hold who wait for the end of a claim.
#[derive(Debug)]
pub struct Claims<W> {
    me: NodeId,
    capacity: usize,
    mine: BTreeMap<StreamKey, Mine<W>>,
    granted: BTreeMap<StreamKey, (Address, Instant)>,
    order: VecDeque<(Instant, StreamKey)>,
    /// Nodes that this one is asking to decide.
    pending_at: BTreeMap<StreamKey, BTreeMap<NodeId, usize>>,
}

impl<W: Clone + Default> Claims<W> {
    /// No claims; holds back for up to `capacity` streams.
    pub fn new(me: NodeId, capacity: usize) -> Self {
        Self {
            me,
            capacity,
            mine: BTreeMap::new(),
            granted: BTreeMap::new(),
            order: VecDeque::new(),
            pending_at: BTreeMap::new(),
        }
    }

    /// Begins a claim of this node. If one is going on, gives what to wait for instead.
    pub fn begin(&mut self, stream: &StreamKey) -> Result<(), W> {
        if let Some(mine) = self.mine.get(stream) {
            return Err(mine.ended.clone());
        }
        self.mine.insert(stream.clone(), Mine { lost: None, ended: W::default() });
        Ok(())
    }

    /// Ends a claim of this node. Returns what those hold who wait for it.
    pub fn end(&mut self, stream: &StreamKey) -> Option<W> {
        self.mine.remove(stream).map(|mine| mine.ended)
    }

    /// Whether this node claims the stream; gives what to wait for.
    pub fn going_on(&self, stream: &StreamKey) -> Option<W> {
        self.mine.get(stream).map(|mine| mine.ended.clone())
    }

    /// Who goes before this node's claim, as it was told.
    pub fn lost(&self, stream: &StreamKey) -> Option<Address> {
        self.mine.get(stream)?.lost.clone()
    }

    /// Takes another node's claim. Gives who is in its way, as far as this node knows: itself, or a
    /// node for which it held back until now. `address` is this node's.
    pub fn claimed(&mut self, stream: &StreamKey, by: &Address, address: &Address, now: Instant) -> Option<Address> {
        let goes_before = |node: &NodeId, other: &NodeId| {
            let order = |node: &NodeId| (rank(node, stream.as_str()), node.clone());
            order(node) > order(other)
        };
        if let Some(mine) = self.mine.get_mut(stream) {
            if goes_before(&self.me, &by.node) {
                return Some(address.clone());
            }
            mine.lost = Some(by.clone());
        }
        let held = self.granted(stream, now).filter(|held| held.node != by.node).cloned();
        if held.as_ref().is_none_or(|held| goes_before(&by.node, &held.node)) {
            self.grant(stream, by, now);
        }
        held
    }

    fn grant(&mut self, stream: &StreamKey, to: &Address, now: Instant) {
        while let Some((until, _)) = self.order.front()
            && (*until <= now || self.order.len() >= self.capacity)
        {
            if let Some((until, stream)) = self.order.pop_front()
                && self.granted.get(&stream).is_some_and(|(_, granted)| *granted == until)
            {
                self.granted.remove(&stream);
            }
        }
        let until = now + GRANT;
        self.granted.insert(stream.clone(), (to.clone(), until));
        self.order.push_back((until, stream.clone()));
    }

    /// For whom this node holds back.
    pub fn granted(&self, stream: &StreamKey, now: Instant) -> Option<&Address> {
        self.granted.get(stream).filter(|(_, until)| now < *until).map(|(to, _)| to)
    }

    /// Notes that a node is asked to decide.
    pub fn begin_pending(&mut self, stream: &StreamKey, node: &NodeId) {
        *self.pending_at.entry(stream.clone()).or_default().entry(node.clone()).or_default() += 1;
    }

    /// Notes that it has answered, or will not.
    pub fn end_pending(&mut self, stream: &StreamKey, node: &NodeId) {
        let Some(asking) = self.pending_at.get_mut(stream) else { return };
        if let Some(count) = asking.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                asking.remove(node);
            }
        }
        if asking.is_empty() {
            self.pending_at.remove(stream);
        }
    }

    /// Whether an answer of any other node is awaited, which may be a decision.
    pub fn awaits_other(&self, stream: &StreamKey, than: &NodeId) -> bool {
        self.pending_at.get(stream).is_some_and(|asking| asking.keys().any(|node| node != than))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    type Claims = super::Claims<Arc<()>>;

    fn address(node: &str) -> Address {
        Address { node: node.into(), grpc: format!("{node}:1") }
    }

    fn stream() -> StreamKey {
        StreamKey::from_shared("v/app/s").unwrap()
    }

    /// Nodes, the one that goes before the others last.
    fn nodes() -> Vec<Address> {
        let mut nodes: Vec<_> = ["a", "b", "c"].map(address).into();
        nodes.sort_by_key(|node| rank(&node.node, "v/app/s"));
        nodes
    }

    #[test]
    fn of_two_claims_the_one_of_higher_rank_goes_on() {
        let [low, high] = [&nodes()[0], &nodes()[2]];
        let now = Instant::now();
        let mut at_low = Claims::new(low.node.clone(), 10);
        let mut at_high = Claims::new(high.node.clone(), 10);
        at_low.begin(&stream()).unwrap();
        at_high.begin(&stream()).unwrap();
        assert_eq!(at_low.claimed(&stream(), high, low, now), None);
        assert_eq!(at_low.lost(&stream()), Some(high.clone()));
        assert_eq!(at_high.claimed(&stream(), low, high, now), Some(high.clone()));
        assert_eq!(at_high.lost(&stream()), None);
        assert_eq!(at_low.granted(&stream(), now), Some(high));
    }

    #[test]
    fn a_witness_names_whom_it_held_back_for_and_turns_only_to_a_higher_rank() {
        let [low, middle, high] = &nodes()[..] else { panic!() };
        let now = Instant::now();
        let mut witness = Claims::new("w".into(), 10);
        let me = address("w");
        assert_eq!(witness.claimed(&stream(), middle, &me, now), None);
        assert_eq!(witness.claimed(&stream(), low, &me, now), Some(middle.clone()));
        assert_eq!(witness.granted(&stream(), now), Some(middle));
        assert_eq!(witness.claimed(&stream(), high, &me, now), Some(middle.clone()));
        assert_eq!(witness.granted(&stream(), now), Some(high));
        assert_eq!(witness.granted(&stream(), now + GRANT), None);
        assert_eq!(witness.claimed(&stream(), low, &me, now + GRANT), None);
    }

    #[test]
    fn those_who_wait_for_a_claim_learn_of_its_end() {
        let mut claims = Claims::new("a".into(), 10);
        claims.begin(&stream()).unwrap();
        let waiting = claims.begin(&stream()).unwrap_err();
        let ended = claims.end(&stream()).unwrap();
        assert!(Arc::ptr_eq(&waiting, &ended));
        assert!(claims.begin(&stream()).is_ok());
    }

    #[test]
    fn what_is_granted_is_bounded() {
        let mut claims = Claims::new("a".into(), 3);
        for n in 0..100 {
            let stream = StreamKey::from_shared(&format!("v/app/{n}")).unwrap();
            claims.claimed(&stream, &address("b"), &address("a"), Instant::now());
        }
        assert_eq!((claims.granted.len(), claims.order.len()), (3, 3));
    }

    #[test]
    fn answers_that_are_awaited_are_counted_by_node() {
        let mut claims = Claims::new("a".into(), 3);
        let (b, c) = ("b".into(), "c".into());
        claims.begin_pending(&stream(), &b);
        claims.begin_pending(&stream(), &b);
        assert!(!claims.awaits_other(&stream(), &b));
        assert!(claims.awaits_other(&stream(), &c));
        claims.end_pending(&stream(), &b);
        assert!(claims.awaits_other(&stream(), &c));
        claims.end_pending(&stream(), &b);
        assert!(!claims.awaits_other(&stream(), &c));
        assert!(claims.pending_at.is_empty());
    }
}
