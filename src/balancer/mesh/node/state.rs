//! All that a node keeps, and the steps that need no other node. Everything here happens under one
//! lock and takes no longer than its own work.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::{
    balancer::{
        BalancerError, OriginStatus, Page, PlaceRequest, Placement, PlacementStatus,
        decide::{Current, Verdict, decide},
        mesh::{
            gossip_keys,
            model::claims::Claims,
            model::clock::Clock,
            model::ledger::{Effect, Ledger, Times},
            model::member::{Incarnation, NodeInfo, NodeState},
            model::origins::Origins,
            model::record::Record,
            model::view::{Changed, View},
            status::Counters,
            traits::GossipStore,
        },
        registry::{Change, Entry},
        ufrag_index::UfragIndex,
        usage::Usage,
    },
    config::Policy,
    origin::{Origin, OriginId},
    stream::StreamKey,
};

/// How long the set of serving nodes must stay the same before a home decides without asking
/// (rule 6). In this time the sessions of a node that is gone are told to the new homes.
const STABLE_FOR: Duration = Duration::from_secs(1);
/// How many times their period sessions count that are not renewed.
const LEASE_PERIODS: u32 = 3;
/// How long a record may name an origin that this node has never heard of, before the origin counts
/// as gone.
const UNKNOWN_ORIGIN_GRACE: Duration = Duration::from_secs(2);

pub(in crate::balancer::mesh) struct State {
    pub clock: Clock,
    pub view: View,
    pub origins: Origins,
    pub ledger: Ledger,
    pub claims: Claims<CancellationToken>,
    pub usage: Usage,
    pub ufrags: UfragIndex,
    pub to_renew: BTreeSet<StreamKey>,
    /// For streams whose origin this node has not heard of: since when.
    pub unknown_origin_since: std::collections::BTreeMap<StreamKey, Instant>,
    /// When homes were told of conflicts last.
    pub conflicts_told: Option<Instant>,
    pub counters: Counters,
    /// What is to be logged of the origins.
    pub changes: Vec<Change>,
    rng: StdRng,
    policy: Policy,
    grpc: String,
    announced: Option<NodeInfo>,
}

/// The outcome of a decision that this node makes.
pub(super) struct Decided {
    pub record: Record,
    pub moved_from: Option<OriginId>,
    pub fresh: bool,
}

impl State {
    pub fn new(settings: &Settings) -> Self {
        let times = Times {
            hold: settings.hold,
            connecting: settings.connecting,
            lease: settings.renew.saturating_mul(LEASE_PERIODS),
        };
        let me = settings.me.node.clone();
        Self {
            clock: Clock::new(Arc::clone(&settings.wall)),
            view: View::new(settings.me.clone(), settings.fresh),
            origins: Origins::new(settings.origin_ttl, settings.max_origins),
            ledger: Ledger::new(me.clone(), times, settings.max_streams),
            claims: Claims::new(me, settings.max_streams),
            usage: Usage::default(),
            ufrags: UfragIndex::new(settings.max_streams),
            to_renew: BTreeSet::new(),
            unknown_origin_since: std::collections::BTreeMap::new(),
            conflicts_told: None,
            counters: Counters::default(),
            changes: Vec::new(),
            rng: StdRng::seed_from_u64(settings.seed),
            policy: settings.policy,
            grpc: settings.grpc.clone(),
            announced: None,
        }
    }

    /// Does what follows from the changes so far: posts them, and tells sessions of moves. Says
    /// whether homes are to be told of sessions.
    pub fn settle(&mut self, board: &impl GossipStore, now: Instant) -> bool {
        let effects = self.ledger.take_effects();
        for effect in &effects {
            if let Effect::Post(_, record) = effect {
                self.origins.ensure_posted(&record.origin);
            }
        }
        let origins = self.origins.take_unposted(now);
        let mut posted = !origins.is_empty();
        for facts in origins {
            board.set(&gossip_keys::origin_key(&facts.origin.id()), &gossip_keys::encode_origin(&facts));
        }
        for effect in effects {
            match effect {
                Effect::Post(stream, record) => {
                    board.set(&gossip_keys::place_key(&stream), &gossip_keys::encode_record(&record));
                    posted = true;
                }
                Effect::Unpost(stream) => {
                    board.delete(&gossip_keys::place_key(&stream));
                    posted = true;
                }
                Effect::Resolved(stream, record) => self.usage.moved(&stream, &record.origin, record.epoch),
                Effect::Unaccounted(stream) => {
                    if self.usage.get(&stream).is_some() {
                        self.to_renew.insert(stream);
                    }
                }
            }
        }
        // After the records: whoever sees that this node sees what others see, sees what it decided
        // before that (rule 6).
        let info = NodeInfo {
            state: self.view.state(),
            grpc: self.grpc.clone(),
            view: self.view.hash(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        if self.announced.as_ref() != Some(&info) {
            board.set(gossip_keys::NODE_KEY, &gossip_keys::encode_node(&info));
            self.announced = Some(info);
            posted = true;
        }
        if posted {
            board.push();
        }
        !self.to_renew.is_empty()
    }

    /// Takes a record that another node wrote, and the time at which it did. `posted` is as in
    /// [`Ledger::merge`].
    pub fn learn(&mut self, stream: &StreamKey, record: &Record, posted: Option<u64>, now: Instant) {
        self.clock.observe(record.written);
        self.ledger.merge(stream, record, posted, now);
    }

    pub fn stable(&self, now: Instant) -> bool {
        self.view.state() == NodeState::Serving && self.view.stable(STABLE_FOR, now)
    }

    /// Does what follows from a change of the view.
    pub fn view_changed(&mut self, changed: &Changed, now: Instant) {
        for node in &changed.gone {
            self.ledger.orphan(node, now);
        }
        for run in &changed.seen {
            self.ledger.reclaim(run, now);
        }
        if changed.serving {
            let serving = self.view.serving().iter().map(|serving| serving.node.as_str()).collect::<Vec<_>>().join(" ");
            tracing::info!(serving, gone = ?changed.gone, "the nodes that serve are others now");
            // Their streams may have new homes, which must know of the sessions.
            self.to_renew.extend(self.usage.streams().cloned());
        }
    }

    pub fn set_live(&mut self, live: &BTreeSet<Incarnation>, now: Instant) {
        let changed = self.view.set_live(live, now);
        self.view_changed(&changed, now);
    }

    /// Of records whose writer is not there to take them back, those that nobody renews end.
    pub fn expire_orphans(&mut self, now: Instant) {
        let live = self.view.members().filter(|(_, member)| member.is_live()).map(|(node, _)| node.clone());
        let live: BTreeSet<_> = live.collect();
        for writer in self.ledger.writers().difference(&live).cloned().collect::<Vec<_>>() {
            self.ledger.orphan(&writer, now);
        }
    }

    pub fn expire_origins(&mut self, board: &impl GossipStore, now: Instant) {
        for id in self.origins.expire(now, &mut self.changes) {
            board.delete(&gossip_keys::origin_key(&id));
        }
    }

    /// Ends records that are over, `limit` at the most; says how many were looked at.
    pub fn expire_records(&mut self, limit: usize, now: Instant) -> usize {
        let Self { ledger, clock, .. } = self;
        let clock = std::cell::RefCell::new(clock);
        ledger.expire(|| clock.borrow_mut().now(), now, limit)
    }

    /// Where the stream is to be, by what this node knows.
    pub fn verdict(&mut self, request: &PlaceRequest<'_>, now: Instant) -> Result<Verdict, BalancerError> {
        let record = self.ledger.get(request.stream);
        let current = record.map(|record| Current { origin: record.origin.clone(), published: record.published });
        if let Some(Current { origin, .. }) = &current
            && self.origins.facts(origin).is_none()
            && !request.avoid.contains(origin)
        {
            // Its registration is still on its way. To move the stream now would take it from its
            // publisher.
            let since = *self.unknown_origin_since.entry(request.stream.clone()).or_insert(now);
            if now.saturating_duration_since(since) < UNKNOWN_ORIGIN_GRACE {
                return Err(BalancerError::Unavailable(format!(
                    "the origin {origin} of the stream is not known to this node yet; try again in a moment"
                )));
            }
        } else if !self.unknown_origin_since.is_empty() {
            self.unknown_origin_since.remove(request.stream);
        }
        let Self { origins, ledger, policy, rng, .. } = self;
        decide(origins.registry(), |origin| ledger.count(origin), current.as_ref(), request, *policy, rng)
    }

    /// Carries out a verdict that this node has the right to.
    pub fn carry_out(
        &mut self,
        request: &PlaceRequest<'_>,
        verdict: &Verdict,
        home: bool,
        now: Instant,
    ) -> Result<Decided, BalancerError> {
        let stream = request.stream;
        let before = self.ledger.get(stream).map(|record| record.origin.clone());
        let stamp = self.clock.now();
        match verdict {
            Verdict::Keep(_) => {
                if home {
                    self.adopt(stream, now);
                    self.ledger.raise_epoch(stream, stamp, now);
                }
                self.ledger.keep(stream, now);
            }
            Verdict::Assign(origin) => {
                self.ledger.assign(stream, &origin.id(), stamp, now)?;
                let count = if before.is_some() { &mut self.counters.moved } else { &mut self.counters.placed };
                *count += 1;
            }
        }
        let record = self.ledger.get(stream).cloned().ok_or_else(|| {
            BalancerError::Unavailable("the placement ended while it was asked for; try again".into())
        })?;
        let moved_from = before.clone().filter(|before| *before != record.origin);
        Ok(Decided { record, moved_from, fresh: before.is_none() })
    }

    /// Takes over a stream of which this node is the home, if another node answers for it so far.
    pub fn adopt(&mut self, stream: &StreamKey, now: Instant) {
        let foreign = self.ledger.get(stream).is_some() && !self.ledger.is_own(stream);
        if foreign {
            let stamp = self.clock.now();
            self.ledger.adopt(stream, stamp, now);
            self.counters.adopted += u64::from(self.ledger.is_own(stream));
        }
    }

    /// The placement that a record stands for, if its origin is registered. While records conflict,
    /// or where the stream ended at a higher epoch, the record that settles it is still to come; its
    /// epoch will not be lower than this.
    pub fn placement(&self, stream: &StreamKey, record: &Record) -> Option<Placement> {
        let origin = self.origin(&record.origin)?;
        let mut epoch = record.epoch;
        // One that has moved since keeps its epoch, by which whoever holds it learns of that.
        if !self.ledger.all(stream).iter().any(|known| known != record && known.supersedes(record)) {
            epoch = epoch.max(self.ledger.highest(stream)).max(self.ledger.tombstones().min_epoch(stream));
        }
        Some(Placement { stream: stream.clone(), origin, epoch })
    }

    pub fn origin(&self, id: &OriginId) -> Option<Arc<Origin>> {
        self.origins.registry().get(id).map(|entry| Arc::clone(&entry.origin))
    }

    pub fn origin_statuses(&self, now: Instant) -> Vec<OriginStatus> {
        let status = |(id, entry): (&OriginId, &Entry)| OriginStatus {
            origin: Arc::clone(&entry.origin),
            state: entry.state(),
            suspect_reason: entry.suspect_reason.clone(),
            heartbeat_age: entry.heartbeat_age(now),
            streams: self.ledger.count(id),
        };
        self.origins.registry().iter().map(status).collect()
    }

    /// A page of the placements whose origin is registered; the others have ended.
    pub fn page(&self, page: Page) -> (Vec<PlacementStatus>, usize) {
        let total = self.origins.registry().iter().map(|(id, _)| self.ledger.count(id)).sum();
        let all_live = total == self.ledger.len();
        let status = |(stream, record): (&StreamKey, &Record)| {
            let users = self.usage.users(stream);
            let placement = self.placement(stream, record)?;
            Some(PlacementStatus { placement, publishers: users.publishers, players: users.players })
        };
        let live = |record: &Record| all_live || self.origins.registry().get(&record.origin).is_some();
        let live = self.ledger.iter_after(None).filter(|(_, record)| live(record));
        (live.skip(page.start).take(page.count).filter_map(status).collect(), total)
    }
}
