//! The settings of a mesh, and which of them go together.

use std::time::Duration;

use super::{ConfigError, Listen, Secret, Seed, keys, sources::Sources};

/// How nodes find and trust each other where they agree by mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// The name of this node; none means the host name.
    pub node_id: Option<String>,
    /// The name of the mesh.
    pub cluster_id: String,
    /// Where gossip arrives, over UDP.
    pub gossip_listen: Listen,
    /// Where other nodes ask this one.
    pub grpc_listen: Listen,
    /// Under which address or name others reach this node; none means that it is found out.
    pub advertise_host: Option<String>,
    /// Where to look for other nodes.
    pub seeds: Vec<Seed>,
    /// The key that the nodes share, if they have one.
    pub key: Option<Secret>,
    /// A second key that is accepted.
    pub key_previous: Option<Secret>,
    /// Whether the mesh may run without a key although it can be reached from elsewhere.
    pub insecure: bool,
    /// How often a node tells its news.
    pub gossip_interval: Duration,
    /// How long a node may take to answer.
    pub rpc_timeout: Duration,
    /// How often a node tells which streams its sessions use.
    pub renew_interval: Duration,
    /// How long a starting node looks for others.
    pub join_timeout: Duration,
}

impl Mesh {
    /// Refuses what cannot run as a mesh. For a configuration that uses another balancer it does not
    /// matter.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refused = |why: String| Err(ConfigError::Together(why));
        let [key, previous, insecure] =
            [&keys::PROXY_MESH_KEY.spec, &keys::PROXY_MESH_KEY_PREVIOUS.spec, &keys::PROXY_MESH_INSECURE.spec]
                .map(|spec| spec.name);
        if self.key.is_none() && self.key_previous.is_some() {
            return refused(format!("{previous} is set while {key} is empty: expected both or only {key}"));
        }
        let private = self.gossip_listen.is_loopback() && self.grpc_listen.is_loopback();
        if self.key.is_none() && !private && !self.insecure {
            return refused(format!(
                "{key} is empty while {}={} and {}={} can be reached from elsewhere: expected a key, both on \
                 127.0.0.1, or {insecure}=on",
                keys::PROXY_MESH_GOSSIP_LISTEN.spec.name,
                self.gossip_listen,
                keys::PROXY_MESH_GRPC_LISTEN.spec.name,
                self.grpc_listen,
            ));
        }
        Ok(())
    }
}

impl Sources<'_> {
    pub(super) fn mesh(&self) -> Result<Mesh, ConfigError> {
        Ok(Mesh {
            node_id: self.value(&keys::PROXY_MESH_NODE_ID)?,
            cluster_id: self.value(&keys::PROXY_MESH_CLUSTER_ID)?,
            gossip_listen: self.value(&keys::PROXY_MESH_GOSSIP_LISTEN)?,
            grpc_listen: self.value(&keys::PROXY_MESH_GRPC_LISTEN)?,
            advertise_host: self.value(&keys::PROXY_MESH_ADVERTISE_HOST)?,
            seeds: self.value(&keys::PROXY_MESH_SEEDS)?,
            key: self.value(&keys::PROXY_MESH_KEY)?,
            key_previous: self.value(&keys::PROXY_MESH_KEY_PREVIOUS)?,
            insecure: self.value(&keys::PROXY_MESH_INSECURE)?,
            gossip_interval: self.value(&keys::PROXY_MESH_GOSSIP_INTERVAL)?,
            rpc_timeout: self.value(&keys::PROXY_MESH_RPC_TIMEOUT)?,
            renew_interval: self.value(&keys::PROXY_MESH_RENEW_INTERVAL)?,
            join_timeout: self.value(&keys::PROXY_MESH_JOIN_TIMEOUT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn mesh(settings: &[(&str, &str)]) -> Mesh {
        let none = BTreeMap::new();
        let env: BTreeMap<_, _> = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Sources { flags: &none, env: &env, dotenv: &none }.mesh().unwrap()
    }

    #[test]
    fn without_settings_the_mesh_is_the_default_one() {
        assert_eq!(mesh(&[]), Mesh::default());
    }

    #[test]
    fn a_mesh_that_others_can_reach_needs_a_key_or_a_word_that_it_does_not() {
        let refused = mesh(&[]).check().unwrap_err().to_string();
        for name in
            ["PROXY_MESH_KEY ", "PROXY_MESH_GOSSIP_LISTEN=", "PROXY_MESH_GRPC_LISTEN=", "PROXY_MESH_INSECURE=on"]
        {
            assert!(refused.contains(name), "{refused}");
        }
        let gossip = ("PROXY_MESH_GOSSIP_LISTEN", "127.0.0.1:12026");
        let grpc = ("PROXY_MESH_GRPC_LISTEN", "[::1]:12027");
        assert!(mesh(&[gossip]).check().is_err());
        assert!(mesh(&[grpc]).check().is_err());
        assert_eq!(mesh(&[gossip, grpc]).check(), Ok(()));
        assert_eq!(mesh(&[("PROXY_MESH_INSECURE", "on")]).check(), Ok(()));
        assert_eq!(mesh(&[("PROXY_MESH_KEY", "0123456789abcdef")]).check(), Ok(()));
    }

    #[test]
    fn a_previous_key_alone_is_a_mistake() {
        let refused = mesh(&[("PROXY_MESH_KEY_PREVIOUS", "0123456789abcdef"), ("PROXY_MESH_INSECURE", "on")]).check();
        assert!(refused.unwrap_err().to_string().starts_with("PROXY_MESH_KEY_PREVIOUS is set while PROXY_MESH_KEY"));
    }

    #[test]
    fn a_seed_is_shown_as_it_is_written() {
        for seed in ["mesh.svc:12026", "10.0.0.1:1", "[2001:db8::1]:2"] {
            assert_eq!(mesh(&[("PROXY_MESH_SEEDS", seed)]).seeds[0].to_string(), seed);
        }
    }
}
