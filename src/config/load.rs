//! From texts to the configuration: flags before the environment, the environment before `.env`,
//! `.env` before the defaults.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{
    Api, AuthType, Balancer, BalancerType, Config, ConfigError, DefaultBackend, Drain, Http, Listen, Log, Rtmp, Secret,
    Srt, System, Upstream, Webrtc,
    keys::{self, Spec},
    sources::{ProcessEnv, Sources, read_dotenv},
};

/// Longer than a client waits for its origin.
const CONNECTING: Duration = Duration::from_secs(30);

/// A configuration, and what was odd about its sources.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Things to log as warnings once there is a log.
    pub warnings: Vec<String>,
}

/// Loads the configuration of this process, with `flags` from its command line.
pub fn from_process(flags: &BTreeMap<String, String>) -> Result<Loaded, ConfigError> {
    let mut warnings = Vec::new();
    let dotenv = read_dotenv(Path::new(".env"), &mut warnings)?;
    let mut loaded = load(Sources { flags, env: &ProcessEnv, dotenv: &dotenv })?;
    warnings.append(&mut loaded.warnings);
    Ok(Loaded { warnings, ..loaded })
}

/// Loads a configuration.
pub fn load(sources: Sources<'_>) -> Result<Loaded, ConfigError> {
    let config = sources.config()?;
    let warnings =
        [sources.env, sources.dotenv].iter().flat_map(|s| s.names()).filter_map(|name| keys::unknown(&name)).collect();
    Ok(Loaded { config, warnings })
}

/// What loading returns where nothing is set.
pub(super) fn defaults() -> Config {
    let unset = BTreeMap::new();
    match (Sources { flags: &unset, env: &unset, dotenv: &unset }).config() {
        Ok(config) => config,
        Err(error) => unreachable!("a documented default is refused: {error}"),
    }
}

impl Sources<'_> {
    fn config(&self) -> Result<Config, ConfigError> {
        let rtmp = self.rtmp()?;
        let token = self.token()?;
        let kind = self.value(&keys::PROXY_LOAD_BALANCER_TYPE)?;
        let config = Config {
            rtmp,
            http: self.http()?,
            api: Api {
                listen: self.value(&keys::PROXY_HTTP_API)?,
                token: token.clone(),
                timeout: self.value(&keys::PROXY_HTTP_API_TIMEOUT)?,
                max_connections: self.value(&keys::PROXY_HTTP_API_MAX_CONNECTIONS)?,
            },
            exporter: self.value(&keys::PROXY_EXPORTER_LISTEN)?,
            webrtc: self.webrtc()?,
            srt: self.srt()?,
            udp_buffer: self.value(&keys::PROXY_UDP_BUFFER)?,
            system: System {
                listen: self.value(&keys::PROXY_SYSTEM_API)?,
                token,
                timeout: self.value(&keys::PROXY_SYSTEM_API_TIMEOUT)?,
                max_connections: self.value(&keys::PROXY_SYSTEM_API_MAX_CONNECTIONS)?,
            },
            upstream: Upstream {
                connect_timeout: self.value(&keys::PROXY_ORIGIN_CONNECT_TIMEOUT)?,
                answer_timeout: self.value(&keys::PROXY_ORIGIN_ANSWER_TIMEOUT)?,
                max_attempts: self.value(&keys::PROXY_ORIGIN_MAX_ATTEMPTS)?,
                probe_interval: self.value(&keys::PROXY_ORIGIN_PROBE_INTERVAL)?,
                http_keepalive: self.value(&keys::PROXY_ORIGIN_HTTP_KEEPALIVE)?,
                http_max_idle: self.value(&keys::PROXY_ORIGIN_HTTP_MAX_IDLE)?,
            },
            balancer: Balancer {
                kind,
                policy: self.value(&keys::PROXY_PLACEMENT_POLICY)?,
                origin_ttl: self.value(&keys::PROXY_ORIGIN_SERVER_TTL)?,
                placement_hold: self.value(&keys::PROXY_PLACEMENT_HOLD)?,
                connecting: CONNECTING,
                max_origins: self.value(&keys::PROXY_MAX_ORIGINS)?,
                max_streams: self.value(&keys::PROXY_MAX_STREAMS)?,
            },
            mesh: self.mesh()?,
            redis: self.redis(kind)?,
            default_backend: self.default_backend()?,
            vhosts: self.value(&keys::PROXY_VHOSTS)?,
            drain: self.drain()?,
            log: Log { filter: self.value(&keys::PROXY_LOG_LEVEL)?, format: self.value(&keys::PROXY_LOG_FORMAT)? },
            worker_threads: self.value(&keys::PROXY_WORKER_THREADS)?,
        };
        config.check_listeners()?;
        if config.balancer.kind == BalancerType::Mesh {
            config.mesh.check()?;
        }
        Ok(config)
    }

    fn http(&self) -> Result<Http, ConfigError> {
        Ok(Http {
            listen: self.value(&keys::PROXY_HTTP_SERVER)?,
            static_files: self.value(&keys::PROXY_STATIC_FILES)?,
            header_timeout: self.value(&keys::PROXY_HTTP_HEADER_TIMEOUT)?,
            answer_timeout: self.value(&keys::PROXY_HTTP_ANSWER_TIMEOUT)?,
            idle_timeout: self.value(&keys::PROXY_HTTP_IDLE_TIMEOUT)?,
            send_timeout: self.value(&keys::PROXY_HTTP_SEND_TIMEOUT)?,
            keepalive_timeout: self.value(&keys::PROXY_HTTP_KEEPALIVE_TIMEOUT)?,
            stream_idle: self.value(&keys::PROXY_HTTP_STREAM_IDLE)?,
            max_connections: self.value(&keys::PROXY_HTTP_MAX_CONNECTIONS)?,
            max_connections_per_ip: self.value(&keys::PROXY_HTTP_MAX_CONNECTIONS_PER_IP)?,
        })
    }

    fn webrtc(&self) -> Result<Webrtc, ConfigError> {
        Ok(Webrtc {
            listen: self.value(&keys::PROXY_WEBRTC_SERVER)?,
            candidates: self.value(&keys::PROXY_WEBRTC_CANDIDATE)?,
            answer_timeout: self.value(&keys::PROXY_WEBRTC_ANSWER_TIMEOUT)?,
            idle_timeout: self.value(&keys::PROXY_WEBRTC_IDLE_TIMEOUT)?,
            max_sessions: self.value(&keys::PROXY_WEBRTC_MAX_SESSIONS)?,
            max_sessions_per_ip: self.value(&keys::PROXY_WEBRTC_MAX_SESSIONS_PER_IP)?,
        })
    }

    fn srt(&self) -> Result<Srt, ConfigError> {
        Ok(Srt {
            listen: self.value(&keys::PROXY_SRT_SERVER)?,
            answer_timeout: self.value(&keys::PROXY_SRT_ANSWER_TIMEOUT)?,
            idle_timeout: self.value(&keys::PROXY_SRT_IDLE_TIMEOUT)?,
            max_sessions: self.value(&keys::PROXY_SRT_MAX_SESSIONS)?,
            max_sessions_per_ip: self.value(&keys::PROXY_SRT_MAX_SESSIONS_PER_IP)?,
        })
    }

    fn rtmp(&self) -> Result<Rtmp, ConfigError> {
        Ok(Rtmp {
            listen: self.value(&keys::PROXY_RTMP_SERVER)?,
            real_ip: self.value(&keys::PROXY_RTMP_REAL_IP)?,
            handshake_timeout: self.value(&keys::PROXY_RTMP_HANDSHAKE_TIMEOUT)?,
            command_timeout: self.value(&keys::PROXY_RTMP_COMMAND_TIMEOUT)?,
            idle_timeout: self.value(&keys::PROXY_RTMP_IDLE_TIMEOUT)?,
            send_timeout: self.value(&keys::PROXY_RTMP_SEND_TIMEOUT)?,
            max_connections: self.value(&keys::PROXY_RTMP_MAX_CONNECTIONS)?,
            max_connections_per_ip: self.value(&keys::PROXY_RTMP_MAX_CONNECTIONS_PER_IP)?,
        })
    }

    /// The token to ask for, if authentication is on. Type and token are checked even while it is
    /// off, so that turning it on brings no surprise.
    fn token(&self) -> Result<Option<Secret>, ConfigError> {
        let enabled = self.value(&keys::PROXY_HTTP_API_AUTH_ENABLED)?;
        let kind = self.value(&keys::PROXY_HTTP_API_AUTH_TYPE)?;
        let token = self.value(&keys::PROXY_HTTP_API_AUTH_TOKEN)?;
        let missing = |name: &str, expected: &str| {
            let enabled = keys::PROXY_HTTP_API_AUTH_ENABLED.spec.name;
            Err(ConfigError::Together(format!("{name} is empty while {enabled}=on: expected {expected}")))
        };
        match (enabled, kind, token) {
            (false, ..) => Ok(None),
            (true, None, _) => missing(keys::PROXY_HTTP_API_AUTH_TYPE.spec.name, "bearer"),
            (true, Some(_), None) => missing(keys::PROXY_HTTP_API_AUTH_TOKEN.spec.name, "the token to ask for"),
            (true, Some(AuthType::Bearer), Some(token)) => Ok(Some(token)),
        }
    }

    fn default_backend(&self) -> Result<Option<DefaultBackend>, ConfigError> {
        let enabled = self.value(&keys::PROXY_DEFAULT_BACKEND_ENABLED)?;
        let backend = DefaultBackend {
            ip: self.value(&keys::PROXY_DEFAULT_BACKEND_IP)?,
            rtmp: self.value(&keys::PROXY_DEFAULT_BACKEND_RTMP)?,
            http: self.value(&keys::PROXY_DEFAULT_BACKEND_HTTP)?,
            api: self.value(&keys::PROXY_DEFAULT_BACKEND_API)?,
            rtc: self.value(&keys::PROXY_DEFAULT_BACKEND_RTC)?,
            srt: self.value(&keys::PROXY_DEFAULT_BACKEND_SRT)?,
        };
        Ok(enabled.then_some(backend))
    }

    fn drain(&self) -> Result<Drain, ConfigError> {
        let drain = Drain {
            grace: self.value(&keys::PROXY_GRACE_QUIT_TIMEOUT)?,
            force: self.value(&keys::PROXY_FORCE_QUIT_TIMEOUT)?,
        };
        if drain.force < drain.grace {
            return Err(ConfigError::Together(format!(
                "{}={} is shorter than {}={}: expected at least as long",
                keys::PROXY_FORCE_QUIT_TIMEOUT.spec.name,
                humantime::format_duration(drain.force),
                keys::PROXY_GRACE_QUIT_TIMEOUT.spec.name,
                humantime::format_duration(drain.grace),
            )));
        }
        Ok(drain)
    }
}

impl Config {
    /// No two listeners of one transport want one address.
    fn check_listeners(&self) -> Result<(), ConfigError> {
        let mut tcp = vec![
            (&keys::PROXY_RTMP_SERVER.spec, &self.rtmp.listen),
            (&keys::PROXY_HTTP_SERVER.spec, &self.http.listen),
            (&keys::PROXY_HTTP_API.spec, &self.api.listen),
            (&keys::PROXY_SYSTEM_API.spec, &self.system.listen),
        ];
        tcp.extend(self.exporter.iter().map(|listen| (&keys::PROXY_EXPORTER_LISTEN.spec, listen)));
        let mut udp = vec![
            (&keys::PROXY_WEBRTC_SERVER.spec, &self.webrtc.listen),
            (&keys::PROXY_SRT_SERVER.spec, &self.srt.listen),
        ];
        if self.balancer.kind == BalancerType::Mesh {
            tcp.push((&keys::PROXY_MESH_GRPC_LISTEN.spec, &self.mesh.grpc_listen));
            udp.push((&keys::PROXY_MESH_GOSSIP_LISTEN.spec, &self.mesh.gossip_listen));
        }
        check_apart(&tcp)?;
        check_apart(&udp)
    }
}

fn check_apart(listeners: &[(&Spec, &Listen)]) -> Result<(), ConfigError> {
    for (n, (spec, listen)) in listeners.iter().enumerate() {
        if let Some((other, taken)) = listeners[..n].iter().find(|(_, taken)| collide(taken, listen)) {
            return Err(ConfigError::Together(format!(
                "{}={taken} and {}={listen}: expected two different addresses",
                other.name, spec.name,
            )));
        }
    }
    Ok(())
}

/// Whether one listener would take the port from the other.
fn collide(a: &Listen, b: &Listen) -> bool {
    a.port != 0 && a.port == b.port && (a.host == b.host || a.is_wildcard() || b.is_wildcard())
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, env::VarError, ffi::OsString, os::unix::ffi::OsStringExt, time::Duration};

    use super::{super::sources::Strings, *};
    use crate::stream::Vhosts;

    type Map = BTreeMap<String, String>;

    fn map(settings: &[(&str, &str)]) -> Map {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn from(flags: &[(&str, &str)], env: &[(&str, &str)], dotenv: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        load(Sources { flags: &map(flags), env: &map(env), dotenv: &map(dotenv) })
    }

    fn config(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        from(&[], env, &[]).map(|loaded| loaded.config)
    }

    #[track_caller]
    fn refusal(env: &[(&str, &str)]) -> String {
        config(env).unwrap_err().to_string()
    }

    #[test]
    fn without_settings_the_defaults_of_the_go_proxy_hold() {
        let config = config(&[]).unwrap();
        assert_eq!(config.rtmp.listen, Listen { host: None, port: 11935 });
        assert_eq!(config.system.listen, Listen { host: None, port: 12025 });
        assert_eq!(config.system.token, None);
        assert_eq!(config.balancer.origin_ttl, Duration::from_mins(5));
        assert_eq!(config.drain, Drain { grace: Duration::from_secs(20), force: Duration::from_secs(30) });
        assert_eq!(config.default_backend, None);
        assert_eq!(config.vhosts, Vhosts::any());
        assert_eq!(config.worker_threads, None);
        assert_eq!((config.api.listen.port, config.http.listen.port), (11985, 18080));
        assert_eq!((config.webrtc.listen.port, config.srt.listen.port), (18000, 20080));
        assert_eq!((config.http.static_files, config.exporter), (None, None));
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_env_file_which_beats_the_default() {
        let port = |flags: &[_], env: &[_], dotenv: &[_]| from(flags, env, dotenv).unwrap().config.rtmp.listen.port;
        let set = |value| [("PROXY_RTMP_SERVER", value)];
        assert_eq!(port(&set("1"), &set("2"), &set("3")), 1);
        assert_eq!(port(&[], &set("2"), &set("3")), 2);
        assert_eq!(port(&[], &[], &set("3")), 3);
        assert_eq!(port(&[], &[], &[]), 11935);
    }

    #[test]
    fn an_empty_value_counts_as_unset_but_an_empty_flag_is_meant() {
        let loaded = from(&[], &[("PROXY_RTMP_SERVER", " ")], &[("PROXY_RTMP_SERVER", "3")]).unwrap();
        assert_eq!(loaded.config.rtmp.listen.port, 3);
        let loaded = from(&[("PROXY_VHOSTS", "")], &[("PROXY_VHOSTS", "a.com")], &[]).unwrap();
        assert_eq!(loaded.config.vhosts, Vhosts::any());
        assert!(from(&[("PROXY_RTMP_SERVER", "")], &[], &[]).is_err());
    }

    /// Says of every key that it is unset, and which keys it was asked for.
    #[derive(Default)]
    struct Asked(RefCell<Vec<String>>);

    impl Strings for Asked {
        fn get(&self, name: &str) -> Result<String, VarError> {
            self.0.borrow_mut().push(name.to_owned());
            Err(VarError::NotPresent)
        }

        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn every_key_of_the_table_is_read_once() {
        let asked = Asked::default();
        load(Sources { flags: &asked, env: &map(&[]), dotenv: &map(&[]) }).unwrap();
        let mut asked = asked.0.into_inner();
        asked.sort();
        let mut table: Vec<_> = keys::ALL.iter().map(|key| key.name.to_owned()).collect();
        table.sort();
        assert_eq!(asked, table);
    }

    #[test]
    fn every_key_refuses_nonsense_and_says_what_is_allowed() {
        for key in keys::ALL.iter().filter(|key| key.name != "PROXY_STATIC_FILES") {
            let error = refusal(&[(key.name, "\u{1} no\n")]);
            assert!(error.starts_with(&format!("{}=", key.name)), "{error}");
            assert!(error.ends_with(&format!("(environment): expected {}", key.allowed)), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_variable_the_value_its_source_and_what_is_allowed() {
        let refused = from(&[], &[], &[("PROXY_RTMP_SEND_TIMEOUT", "20")]).unwrap_err().to_string();
        assert_eq!(
            refused,
            "PROXY_RTMP_SEND_TIMEOUT=\"20\" (.env): expected a duration from 1ms to 24h, such as 500ms, 20s, 1.5s or 1m30s"
        );
        let long = refusal(&[("PROXY_LOG_LEVEL", &"x".repeat(5000))]);
        assert!(long.len() < 400 && long.contains("\u{2026}\""), "{long}");
    }

    #[test]
    fn a_balancer_that_there_is_not_is_refused_with_those_that_there_are() {
        let refused = refusal(&[("PROXY_LOAD_BALANCER_TYPE", "etcd")]);
        assert!(refused.ends_with("expected memory, redis or mesh"), "{refused}");
    }

    struct NotUtf8;

    impl Strings for NotUtf8 {
        fn get(&self, _: &str) -> Result<String, VarError> {
            Err(VarError::NotUnicode(OsString::from_vec(vec![0xff])))
        }

        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused() {
        let refused = load(Sources { flags: &map(&[]), env: &NotUtf8, dotenv: &map(&[]) }).unwrap_err();
        assert!(refused.to_string().starts_with("PROXY_RTMP_SERVER=(not UTF-8) (environment)"), "{refused}");
    }

    #[test]
    fn authentication_needs_a_type_and_a_token() {
        let on = ("PROXY_HTTP_API_AUTH_ENABLED", "on");
        let kind = ("PROXY_HTTP_API_AUTH_TYPE", "bearer");
        let token = ("PROXY_HTTP_API_AUTH_TOKEN", " s3cr$t\n");
        assert!(refusal(&[on]).starts_with("PROXY_HTTP_API_AUTH_TYPE is empty while PROXY_HTTP_API_AUTH_ENABLED=on"));
        assert!(refusal(&[on, token]).starts_with("PROXY_HTTP_API_AUTH_TYPE is empty"));
        assert!(refusal(&[on, kind]).starts_with("PROXY_HTTP_API_AUTH_TOKEN is empty"));
        assert_eq!(config(&[on, kind, token]).unwrap().system.token, Some(Secret::new("s3cr$t")));
        assert_eq!(config(&[kind, token]).unwrap().system.token, None);
    }

    #[test]
    fn a_secret_is_shown_neither_when_it_is_refused_nor_in_debug_output() {
        let refused = refusal(&[("PROXY_HTTP_API_AUTH_TOKEN", "s3cr\u{e9}t")]);
        assert!(refused.starts_with("PROXY_HTTP_API_AUTH_TOKEN=*** ("), "{refused}");
        let good = [
            ("PROXY_HTTP_API_AUTH_ENABLED", "on"),
            ("PROXY_HTTP_API_AUTH_TYPE", "bearer"),
            ("PROXY_HTTP_API_AUTH_TOKEN", "s3cret"),
        ];
        assert!(!format!("{:?}", from(&[], &good, &[]).unwrap()).contains("s3cret"));
    }

    #[test]
    fn a_force_timeout_shorter_than_the_grace_timeout_is_refused_with_both_names() {
        assert_eq!(
            refusal(&[("PROXY_GRACE_QUIT_TIMEOUT", "1m")]),
            "PROXY_FORCE_QUIT_TIMEOUT=30s is shorter than PROXY_GRACE_QUIT_TIMEOUT=1m: expected at least as long"
        );
        assert!(config(&[("PROXY_GRACE_QUIT_TIMEOUT", "30s")]).is_ok());
    }

    #[test]
    fn two_listeners_on_one_port_are_refused_with_both_names() {
        for (rtmp, system) in [("7000", "7000"), ("127.0.0.1:7000", "7000"), ("0.0.0.0:7000", "127.0.0.1:7000")] {
            let refused = refusal(&[("PROXY_RTMP_SERVER", rtmp), ("PROXY_SYSTEM_API", system)]);
            assert!(refused.contains("PROXY_RTMP_SERVER=") && refused.contains("PROXY_SYSTEM_API="), "{refused}");
        }
        let refused = refusal(&[("PROXY_EXPORTER_LISTEN", "18080")]);
        assert!(refused.contains("PROXY_HTTP_SERVER=") && refused.contains("PROXY_EXPORTER_LISTEN="), "{refused}");
        for (rtmp, system) in [("0", "0"), ("127.0.0.1:7000", "127.0.0.2:7000"), ("7000", "7001")] {
            assert!(config(&[("PROXY_RTMP_SERVER", rtmp), ("PROXY_SYSTEM_API", system)]).is_ok());
        }
    }

    #[test]
    fn the_default_backend_is_there_only_when_it_is_on() {
        let config = config(&[
            ("PROXY_DEFAULT_BACKEND_ENABLED", "on"),
            ("PROXY_DEFAULT_BACKEND_IP", "origin.local"),
            ("PROXY_DEFAULT_BACKEND_RTMP", "tcp://:1936"),
        ])
        .unwrap();
        let backend = config.default_backend.unwrap();
        assert_eq!((backend.ip.as_str(), backend.rtmp.port()), ("origin.local", 1936));
        assert_eq!(backend.http, None);
        assert_eq!(backend.srt.map(|srt| srt.port()), Some(10080));
    }

    #[test]
    fn unknown_names_of_the_environment_and_of_the_env_file_are_warned_about() {
        let warnings = from(&[], &[("PROXY_RTMP_SERVR", "1"), ("PATH", "/")], &[("PROXY_VHOST", "")]).unwrap().warnings;
        assert_eq!(
            warnings,
            [
                "PROXY_RTMP_SERVR is no setting and is ignored; did you mean PROXY_RTMP_SERVER?",
                "PROXY_VHOST is no setting and is ignored; did you mean PROXY_VHOSTS?"
            ]
        );
    }
}
