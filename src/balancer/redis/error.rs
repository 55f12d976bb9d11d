//! Why an operation on Redis has no result, with what an operator can do about it.

use std::time::Duration;

use redis::ErrorKind;

use crate::balancer::BalancerError;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RedisError {
    #[error("connecting to {server}")]
    Connecting { server: String },
    #[error(
        "{server} does not answer within {}: look whether it runs and is not overloaded",
        humantime::format_duration(*.limit)
    )]
    Timeout { server: String, limit: Duration },
    #[error("{server}: {message}: {}", .cause.remedy())]
    Failed { server: String, cause: Cause, message: String },
    #[error(
        "there are more keys in Redis than can be looked through in {limit:?}: give the proxies a database of their own"
    )]
    ScanLimit { limit: Duration },
}

/// The kind of a failure, by the code of the server's error reply where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    OutOfMemory,
    CannotPersist,
    ReadOnlyReplica,
    NoReplicas,
    Authentication,
    Permission,
    Loading,
    ClusterMode,
    NodesDown,
    WrongType,
    Other,
}

impl Cause {
    fn of(error: &redis::RedisError) -> Self {
        match error.code() {
            Some("OOM") => Self::OutOfMemory,
            Some("MISCONF") => Self::CannotPersist,
            Some("READONLY") => Self::ReadOnlyReplica,
            Some("NOREPLICAS") => Self::NoReplicas,
            Some("NOAUTH" | "WRONGPASS") => Self::Authentication,
            Some("NOPERM") => Self::Permission,
            Some("LOADING") => Self::Loading,
            Some("MOVED") => Self::ClusterMode,
            Some("CLUSTERDOWN" | "MASTERDOWN") => Self::NodesDown,
            Some("WRONGTYPE") => Self::WrongType,
            _ if error.kind() == ErrorKind::AuthenticationFailed => Self::Authentication,
            _ => Self::Other,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::OutOfMemory => "it is out of memory: raise its maxmemory",
            Self::CannotPersist => "it cannot save to its disk: look into its log",
            Self::ReadOnlyReplica => "it is a replica: name the master, or the Sentinels that know it",
            Self::Authentication => "look at PROXY_REDIS_USERNAME and PROXY_REDIS_PASSWORD",
            Self::Permission => "give its user all commands on the keys and the channel srs-proxy-*",
            Self::Loading => "it loads its data: wait",
            Self::ClusterMode => "it belongs to a Cluster: set PROXY_REDIS_CLUSTER",
            Self::NoReplicas | Self::NodesDown => "too many of its nodes are down",
            Self::WrongType | Self::Other => "look whether it runs, and at the PROXY_REDIS_ settings",
        }
    }
}

impl RedisError {
    /// What a client library's error means; `limit` is the deadline of operations.
    pub fn new(server: &str, limit: Duration, error: &redis::RedisError) -> Self {
        let server = server.to_owned();
        if error.is_timeout() {
            return Self::Timeout { server, limit };
        }
        Self::Failed { server, cause: Cause::of(error), message: error.to_string() }
    }

    /// Whether the server answers and yet accepts no writes.
    pub fn refuses_writes(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                cause: Cause::OutOfMemory
                    | Cause::CannotPersist
                    | Cause::Permission
                    | Cause::ReadOnlyReplica
                    | Cause::NoReplicas,
                ..
            }
        )
    }

    /// Whether the key holds a value of another type than the command is for.
    pub fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Failed { cause: Cause::WrongType, .. })
    }
}

impl From<RedisError> for BalancerError {
    fn from(error: RedisError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_reply(code: &str) -> RedisError {
        let reply = redis::parse_redis_value(format!("-{code} the server's own words\r\n").as_bytes());
        let error = match reply {
            Ok(value) => value.extract_error().unwrap_err(),
            Err(error) => error,
        };
        RedisError::new("redis", Duration::from_secs(1), &error)
    }

    #[test]
    fn error_replies_are_told_apart_by_their_code() {
        for code in ["OOM", "MISCONF", "NOPERM", "READONLY", "NOREPLICAS"] {
            assert!(of_reply(code).refuses_writes(), "{code}");
        }
        for code in ["WRONGTYPE", "LOADING", "ERR", "NOAUTH"] {
            assert!(!of_reply(code).refuses_writes(), "{code}");
        }
        assert!(of_reply("WRONGTYPE").is_wrong_type());
        assert!(of_reply("OOM").to_string().contains("maxmemory"));
    }
}
