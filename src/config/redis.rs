//! The settings of Redis, of which some exclude each other.

use std::{path::PathBuf, time::Duration};

use redis::ConnectionAddr;

use super::{
    BalancerType, ConfigError, Secret,
    keys::{self, Key, Spec},
    sources::Sources,
    value::redis_url,
};

/// The Redis through which nodes agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is.
    pub server: RedisServer,
    /// The user to log in as; none means Redis' own default.
    pub username: Option<String>,
    /// The password to log in with.
    pub password: Option<Secret>,
    /// The number of the database.
    pub db: u32,
    /// Encryption, if it is on.
    pub tls: Option<RedisTls>,
    /// What all keys begin with.
    pub key_prefix: String,
    /// How long it may take to answer, and to be connected to.
    pub timeout: Duration,
}

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServer {
    /// One server, by host and port.
    Single(String, u16),
    /// A Redis Cluster, by some of its nodes.
    Cluster(Vec<(String, u16)>),
    /// Whichever server the Sentinels call the master.
    Sentinel {
        /// The Sentinels.
        addresses: Vec<(String, u16)>,
        /// The name of the master.
        master: String,
        /// The password of the Sentinels themselves.
        password: Option<Secret>,
    },
}

/// How connections to Redis are encrypted. Certificates are PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Who may sign the server's certificate; none means whom the system trusts.
    pub ca: Option<PathBuf>,
    /// The certificate that this node shows, and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A setting that was changed, as it may be shown.
struct Changed {
    spec: &'static Spec,
    shown: String,
}

impl Sources<'_> {
    pub(super) fn redis(&self, kind: BalancerType) -> Result<Redis, ConfigError> {
        let url: Option<Secret> = self.value(&keys::PROXY_REDIS_URL)?;
        let cluster: Vec<_> = self.value(&keys::PROXY_REDIS_CLUSTER)?;
        let addresses: Vec<_> = self.value(&keys::PROXY_REDIS_SENTINEL)?;
        let mut redis = Redis {
            server: RedisServer::Single(self.value(&keys::PROXY_REDIS_HOST)?, self.value(&keys::PROXY_REDIS_PORT)?),
            username: self.value(&keys::PROXY_REDIS_USERNAME)?,
            password: self.value(&keys::PROXY_REDIS_PASSWORD)?,
            db: self.value(&keys::PROXY_REDIS_DB)?,
            tls: None,
            key_prefix: self.value(&keys::PROXY_REDIS_KEY_PREFIX)?,
            timeout: self.value(&keys::PROXY_REDIS_TIMEOUT)?,
        };
        let master = self.value(&keys::PROXY_REDIS_SENTINEL_MASTER)?;
        let sentinel_password: Option<Secret> = self.value(&keys::PROXY_REDIS_SENTINEL_PASSWORD)?;
        let ca = self.value(&keys::PROXY_REDIS_TLS_CA)?;
        let identity = (self.value(&keys::PROXY_REDIS_TLS_CERT)?, self.value(&keys::PROXY_REDIS_TLS_KEY)?);
        let mut encrypted: bool = self.value(&keys::PROXY_REDIS_TLS)?;

        // What nobody uses may contradict itself: settings are shared between nodes of all kinds.
        if kind == BalancerType::Redis {
            self.check_redis()?;
        }

        if let Some(info) = url.as_ref().and_then(|url| redis_url(url.expose())) {
            let settings = info.redis_settings();
            match info.addr() {
                ConnectionAddr::Tcp(host, port) => redis.server = RedisServer::Single(host.clone(), *port),
                ConnectionAddr::TcpTls { host, port, .. } => {
                    redis.server = RedisServer::Single(host.clone(), *port);
                    encrypted = true;
                }
                _ => {}
            }
            redis.username = settings.username().map(str::to_owned);
            redis.password = settings.password().map(Secret::new);
            redis.db = u32::try_from(settings.db()).unwrap_or(redis.db);
        }
        if !cluster.is_empty() {
            redis.server = RedisServer::Cluster(cluster);
        } else if !addresses.is_empty() {
            redis.server = RedisServer::Sentinel { addresses, master, password: sentinel_password };
        }
        let identity = identity.0.zip(identity.1);
        redis.tls = encrypted.then_some(RedisTls { ca, identity });
        Ok(redis)
    }

    /// Refuses settings that contradict each other.
    fn check_redis(&self) -> Result<(), ConfigError> {
        let url = self.changed(&keys::PROXY_REDIS_URL)?;
        let cluster = self.changed(&keys::PROXY_REDIS_CLUSTER)?;
        let sentinel = self.changed(&keys::PROXY_REDIS_SENTINEL)?;
        let host = self.changed(&keys::PROXY_REDIS_HOST)?;
        let port = self.changed(&keys::PROXY_REDIS_PORT)?;
        let username = self.changed(&keys::PROXY_REDIS_USERNAME)?;
        let password = self.changed(&keys::PROXY_REDIS_PASSWORD)?;
        let db = self.changed(&keys::PROXY_REDIS_DB)?;
        let tls = self.changed(&keys::PROXY_REDIS_TLS)?;

        for (one, others) in [
            (&url, vec![&cluster, &sentinel, &host, &port, &username, &password, &db, &tls]),
            (&cluster, vec![&sentinel, &host, &port, &db]),
            (&sentinel, vec![&host, &port]),
        ] {
            if let (Some(one), Some(other)) = (one, others.into_iter().flatten().next()) {
                return Err(ConfigError::Together(format!("{one} and {other}: expected only one of them")));
            }
        }
        if let (Some(username), None) = (&username, &password) {
            return Err(needs(username, &keys::PROXY_REDIS_PASSWORD.spec));
        }

        let encrypted = tls.is_some()
            || self.value(&keys::PROXY_REDIS_URL)?.is_some_and(|url: Secret| url.expose().starts_with("rediss"));
        let (ca, cert) = (self.changed(&keys::PROXY_REDIS_TLS_CA)?, self.changed(&keys::PROXY_REDIS_TLS_CERT)?);
        let key = self.changed(&keys::PROXY_REDIS_TLS_KEY)?;
        match (&cert, &key) {
            (Some(cert), None) => return Err(needs(cert, &keys::PROXY_REDIS_TLS_KEY.spec)),
            (None, Some(key)) => return Err(needs(key, &keys::PROXY_REDIS_TLS_CERT.spec)),
            _ => {}
        }
        if let (false, Some(file)) = (encrypted, ca.or(cert)) {
            let spec = &keys::PROXY_REDIS_TLS.spec;
            return Err(ConfigError::Together(format!("{file} while {}=off: expected on", spec.name)));
        }
        let master = self.changed(&keys::PROXY_REDIS_SENTINEL_MASTER)?;
        match (sentinel, master.or(self.changed(&keys::PROXY_REDIS_SENTINEL_PASSWORD)?)) {
            (None, Some(other)) => Err(needs(&other, &keys::PROXY_REDIS_SENTINEL.spec)),
            _ => Ok(()),
        }
    }

    /// The setting, if its value is not the default.
    fn changed<T: PartialEq>(&self, key: &'static Key<T>) -> Result<Option<Changed>, ConfigError> {
        let changed = Some(self.value(key)?) != (key.rule.parse)(key.spec.default);
        Ok(changed.then(|| Changed { spec: &key.spec, shown: self.shown(&key.spec) }))
    }
}

fn needs(one: &Changed, other: &Spec) -> ConfigError {
    ConfigError::Together(format!("{} is empty while {one}: expected both or neither", other.name))
}

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.spec.name, self.shown)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Config, load::load};

    fn config(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let none = BTreeMap::new();
        let mut env = BTreeMap::from([("PROXY_LOAD_BALANCER_TYPE".to_owned(), "redis".to_owned())]);
        env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        load(Sources { flags: &none, env: &env, dotenv: &none }).map(|loaded| loaded.config)
    }

    fn redis(settings: &[(&str, &str)]) -> Redis {
        config(settings).unwrap().redis
    }

    fn at(host: &str, port: u16) -> RedisServer {
        RedisServer::Single(host.into(), port)
    }

    #[test]
    fn without_settings_the_defaults_of_the_go_proxy_hold() {
        let redis = redis(&[]);
        assert_eq!(redis.server, at("127.0.0.1", 6379));
        assert_eq!((redis.db, redis.key_prefix.as_str(), redis.tls), (0, "", None));
        assert_eq!((redis.username, redis.password), (None, None));
    }

    #[test]
    fn a_url_says_all_that_the_settings_say() {
        let redis = redis(&[("PROXY_REDIS_URL", "rediss://me:p%40ss@redis.local:7000/3")]);
        assert_eq!(redis.server, at("redis.local", 7000));
        assert_eq!((redis.username.as_deref(), redis.db), (Some("me"), 3));
        assert_eq!(redis.password.map(|secret| secret.expose().to_owned()).as_deref(), Some("p@ss"));
        assert_eq!(redis.tls, Some(RedisTls::default()));
        assert_eq!(super::redis_url("redis://h").map(|info| info.addr().to_string()).as_deref(), Some("h:6379"));
        for bad in ["h:6379", "http://h", "redis:///run/redis.sock", "unix:///s", "redis://h/x", "rediss://h/#insecure"]
        {
            assert!(super::redis_url(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_cluster_or_sentinels_take_the_place_of_one_server() {
        let servers = vec![("a".to_owned(), 1), ("b".to_owned(), 2)];
        let cluster = redis(&[("PROXY_REDIS_CLUSTER", "a:1,b:2"), ("PROXY_REDIS_PASSWORD", "p")]);
        assert_eq!(cluster.server, RedisServer::Cluster(servers.clone()));
        let sentinel = redis(&[("PROXY_REDIS_SENTINEL", "a:1,b:2"), ("PROXY_REDIS_SENTINEL_MASTER", "m")]);
        let server = RedisServer::Sentinel { addresses: servers, master: "m".into(), password: None };
        assert_eq!(sentinel.server, server);
    }

    #[test]
    fn settings_that_contradict_each_other_are_told_with_their_values_and_without_secrets() {
        let url = ("PROXY_REDIS_URL", "redis://:s3cret@h");
        for (settings, told) in [
            (
                &[url, ("PROXY_REDIS_HOST", "x")][..],
                "PROXY_REDIS_URL=*** and PROXY_REDIS_HOST=\"x\": expected only one",
            ),
            (&[url, ("PROXY_REDIS_PASSWORD", "s3cret")], "PROXY_REDIS_URL=*** and PROXY_REDIS_PASSWORD=***: expected"),
            (&[url, ("PROXY_REDIS_TLS", "on")], "PROXY_REDIS_URL=*** and PROXY_REDIS_TLS=\"on\": expected only one"),
            (
                &[("PROXY_REDIS_CLUSTER", "a:1"), ("PROXY_REDIS_SENTINEL", "b:2")],
                "PROXY_REDIS_CLUSTER=\"a:1\" and PROXY_REDIS_SENTINEL=\"b:2\": expected only one of them",
            ),
            (
                &[("PROXY_REDIS_CLUSTER", "a:1"), ("PROXY_REDIS_DB", "1")],
                "PROXY_REDIS_CLUSTER=\"a:1\" and PROXY_REDIS_DB=\"1\": expected only one of them",
            ),
            (
                &[("PROXY_REDIS_SENTINEL", "a:1"), ("PROXY_REDIS_PORT", "1")],
                "PROXY_REDIS_SENTINEL=\"a:1\" and PROXY_REDIS_PORT=\"1\": expected only one of them",
            ),
            (
                &[("PROXY_REDIS_USERNAME", "me")],
                "PROXY_REDIS_PASSWORD is empty while PROXY_REDIS_USERNAME=\"me\": expected both or neither",
            ),
            (
                &[("PROXY_REDIS_SENTINEL_MASTER", "m")],
                "PROXY_REDIS_SENTINEL is empty while PROXY_REDIS_SENTINEL_MASTER=\"m\": expected both or neither",
            ),
            (&[("PROXY_REDIS_TLS_CA", "/ca")], "PROXY_REDIS_TLS_CA=\"/ca\" while PROXY_REDIS_TLS=off: expected on"),
            (
                &[("PROXY_REDIS_TLS", "on"), ("PROXY_REDIS_TLS_CERT", "/c")],
                "PROXY_REDIS_TLS_KEY is empty while PROXY_REDIS_TLS_CERT=\"/c\": expected both or neither",
            ),
        ] {
            let error = config(settings).unwrap_err().to_string();
            assert!(error.starts_with(told) && !error.contains("s3cret"), "{error}");
            let unused = [settings, &[("PROXY_LOAD_BALANCER_TYPE", "memory")]].concat();
            assert!(config(&unused).is_ok(), "what nobody uses stops no start: {told}");
        }
        let error = config(&[("PROXY_REDIS_URL", "http://s3cret")]).unwrap_err().to_string();
        assert!(error.starts_with("PROXY_REDIS_URL=*** (environment): expected redis://"), "{error}");
    }
}
