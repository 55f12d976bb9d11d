//! The board of the mesh, over chitchat with sealed packets.

pub mod counters;
pub mod packet;
mod reassembly;
mod replay;
pub mod seal;
