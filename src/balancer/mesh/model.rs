//! What a node knows and by what rules (`RULES.md`): records of streams, members, origins, claims. Pure:
//! times and messages come in, effects come out. No clock, no network, no runtime.

pub(super) mod claims;
pub mod clock;
pub(super) mod ledger;
pub mod member;
pub mod origins;
pub mod record;
pub(super) mod tombstones;
pub(super) mod view;
