//! What is logged and counted of sessions when they end, whatever their protocol.

use tracing::{Level, debug, info, warn};

use crate::{
    error::{Error, Kind, Side},
    session::Session,
};

/// Ordinary ends are quiet; what an operator may have to act on is a warning.
pub(super) fn ended(session: &Session, error: &Error) {
    session.set_end(error);
    let (from_client, from_origin) = session.bytes();
    // Fields without a value are left out.
    let (packets_from_client, packets_from_origin) = session.datagrams();
    let seconds = session.age().as_secs_f64();
    let level = match (error.side(), error.kind()) {
        // A port scan or a load balancer's probe.
        (Side::Client, Kind::Closed) if from_client == 0 && session.role().is_none() => Level::DEBUG,
        (Side::Origin, Kind::Closed | Kind::Refused) | (Side::Client, _) | (_, Kind::Shutdown) => Level::INFO,
        _ => Level::WARN,
    };
    macro_rules! end {
        ($log:ident) => {
            $log!(seconds, from_client, from_origin, packets_from_client, packets_from_origin, side = %error.side(), kind = error.kind().as_str(), reason = error.message(), "session ended")
        };
    }
    match level {
        Level::DEBUG => end!(debug),
        Level::INFO => end!(info),
        _ => end!(warn),
    }
}
