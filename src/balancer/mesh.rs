//! Nodes that agree by gossip and by asking each other. `mesh/RULES.md` says by what rules.

pub mod gossip;
pub mod message;
pub mod port;
pub mod record;
