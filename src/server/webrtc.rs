//! WebRTC: offers and answers by HTTP, media by UDP ([`media`]).

mod lookup;
pub mod media;
mod peers;
pub mod registry;
mod session;

use std::time::Duration;

/// How long other nodes find a session after it was told for the last time, as with the Go proxy.
const RECORD: Duration = Duration::from_secs(120);
/// How often a session is told anew.
const RENEWAL: Duration = Duration::from_secs(50);

/// The record that says that a session publishes. The record of its username has no room for that: the
/// Go proxy writes and reads it, too. No fragment of a username holds this sign (RFC 8839, section 5.4).
fn publisher_record(username: &str) -> String {
    format!("{username}#publish")
}
