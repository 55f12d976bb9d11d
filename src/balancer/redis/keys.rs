//! What keys are called: those of the Go proxy, and our own beside them.

use redis::cluster_routing::Slot;

use crate::{origin::OriginId, stream::StreamKey};

/// The names of all keys of one cluster of proxies.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// A server's JSON, as in the Go proxy. The key is also what stands for the server elsewhere.
    pub fn server(&self, id: &OriginId) -> String {
        format!("{}srs-proxy-server:{id}", self.prefix)
    }

    /// Whose key it is, if it is a server's.
    pub fn server_id(&self, key: &[u8]) -> Option<OriginId> {
        let id = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.strip_prefix("srs-proxy-server:")?;
        (!id.is_empty()).then(|| OriginId::from(id))
    }

    /// The JSON list of all servers' keys, as in the Go proxy.
    pub fn servers(&self) -> String {
        format!("{}srs-proxy-all-servers", self.prefix)
    }

    /// The key of the server on which a stream is placed, as in the Go proxy.
    pub fn url(&self, stream: &StreamKey) -> String {
        format!("{}srs-proxy-url:{stream}", self.prefix)
    }

    /// A pattern that all keys of placements match.
    pub fn urls(&self) -> String {
        format!("{}srs-proxy-url:*", self.prefix)
    }

    /// The stream whose placement a key holds.
    pub fn stream(&self, key: &[u8]) -> Option<StreamKey> {
        let stream = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.strip_prefix("srs-proxy-url:")?;
        StreamKey::from_shared(stream).ok()
    }

    /// What we keep of a placement beside [`Self::url`]: a hash with its epoch and who uses it. Both
    /// are in one slot of a Redis Cluster, so that one script can change them together.
    pub fn placement(&self, stream: &StreamKey) -> String {
        let prefix = &self.prefix;
        let url = self.url(stream);
        if prefix.contains('{') {
            return format!("{prefix}srs-proxy-meta-url:{stream}");
        }
        match hash_tag(&url) {
            Some(tag) => format!("{prefix}srs-proxy-meta-url:{{{tag}}}:{stream}"),
            // The whole of the other key is what its slot is computed from.
            None if !url.contains('}') => format!("{prefix}srs-proxy-meta-url:{{{url}}}"),
            None => {
                let slot = Slot::for_key(&url);
                let tag = (0..u32::MAX).find(|n| Slot::for_key(n.to_string()) == slot).unwrap_or_default();
                format!("{prefix}srs-proxy-meta-url:{{{tag}}}:{stream}")
            }
        }
    }

    /// What a heartbeat says beyond what the Go proxy keeps.
    pub fn extras(&self, id: &OriginId) -> String {
        format!("{}srs-proxy-meta-server:{id}", self.prefix)
    }

    /// Why a server is suspect.
    pub fn suspect(&self, id: &OriginId) -> String {
        format!("{}srs-proxy-meta-suspect:{id}", self.prefix)
    }

    /// A WebRTC session, as in the Go proxy.
    pub fn ufrag(&self, ufrag: &str) -> String {
        format!("{}srs-proxy-ufrag:{ufrag}", self.prefix)
    }

    /// A stream that players of HLS fetch, as in the Go proxy.
    pub fn spbhid(&self, spbhid: &str) -> String {
        format!("{}srs-proxy-spbhid:{spbhid}", self.prefix)
    }

    /// A value by chance that is there for as long as Redis has not lost its data.
    pub fn alive(&self) -> String {
        format!("{}srs-proxy-meta-alive", self.prefix)
    }

    /// The channel on which nodes tell each other of changes.
    pub fn events(&self) -> String {
        format!("{}srs-proxy-meta-events", self.prefix)
    }
}

/// The part of a key that alone decides on its slot (Redis Cluster specification, "Hash tags").
fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(name: &str) -> StreamKey {
        StreamKey::from_shared(&format!("v/app/{name}")).unwrap()
    }

    #[test]
    fn keys_are_those_of_the_go_proxy_behind_the_prefix() {
        let keys = Keys::new("p:");
        let id = OriginId::from("vid-1-run-2-3");
        assert_eq!(keys.server(&id), "p:srs-proxy-server:vid-1-run-2-3");
        assert_eq!(keys.servers(), "p:srs-proxy-all-servers");
        assert_eq!(keys.url(&stream("s")), "p:srs-proxy-url:v/app/s");
        assert_eq!(keys.ufrag("u"), "p:srs-proxy-ufrag:u");
        assert_eq!(keys.spbhid("i"), "p:srs-proxy-spbhid:i");
        assert_eq!(keys.server_id(keys.server(&id).as_bytes()), Some(id));
        assert_eq!(keys.stream(keys.url(&stream("s")).as_bytes()), Some(stream("s")));
    }

    #[test]
    fn keys_of_others_are_told_apart() {
        let keys = Keys::new("p:");
        for key in ["srs-proxy-server:a", "p:srs-proxy-server:", "p:other", "", "p:srs-proxy-url:v/app/s"] {
            assert_eq!(keys.server_id(key.as_bytes()), None, "{key}");
        }
        for key in ["srs-proxy-url:v/app/s", "p:srs-proxy-url:", "p:srs-proxy-url:a/b"] {
            assert_eq!(keys.stream(key.as_bytes()), None, "{key}");
        }
        assert_eq!(keys.server_id(&[0xff]), None);
    }

    proptest! {
        #[test]
        fn both_keys_of_a_placement_are_in_one_slot_and_each_stream_has_its_own(
            prefix in prop_oneof![Just(""), Just("a:"), Just("{t}:"), Just("x{t}")],
            one in "[a-c{}]{1,8}", other in "[a-c{}]{1,8}",
        ) {
            let keys = Keys::new(prefix);
            let (one, other) = (stream(&one), stream(&other));
            prop_assert_eq!(Slot::for_key(keys.url(&one)), Slot::for_key(keys.placement(&one)));
            prop_assert_eq!(keys.placement(&one) == keys.placement(&other), one == other);
        }
    }
}
