//! What goes with every call: who asks whom, in which cluster, and at what time.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use crate::balancer::mesh::{
    model::record::{NodeId, Stamp},
    wire,
};

const CLUSTER: &str = "cluster";
const FROM_NODE: &str = "from-node";
const TO_NODE: &str = "to-node";
const CLOCK: &str = "clock";

/// What a call says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub cluster: String,
    pub from: NodeId,
    pub to: NodeId,
    pub clock: Stamp,
}

impl Call {
    pub fn write(&self, metadata: &mut MetadataMap) {
        for (key, text) in
            [(CLUSTER, self.cluster.as_str()), (FROM_NODE, self.from.as_str()), (TO_NODE, self.to.as_str())]
        {
            let encoded = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            // What is percent-encoded is a valid value.
            if let Ok(value) = AsciiMetadataValue::try_from(encoded) {
                metadata.insert(key, value);
            }
        }
        write_clock(self.clock, metadata);
    }

    /// Reads what [`Self::write`] wrote; the error names what is missing or wrong.
    pub fn read(metadata: &MetadataMap) -> Result<Self, String> {
        let node = |key| wire::node(key, text(metadata, key)?).map_err(|error| error.to_string());
        Ok(Self {
            cluster: text(metadata, CLUSTER)?,
            from: node(FROM_NODE)?,
            to: node(TO_NODE)?,
            clock: read_clock(metadata)?,
        })
    }
}

pub(super) fn write_clock(clock: Stamp, metadata: &mut MetadataMap) {
    metadata.insert(CLOCK, AsciiMetadataValue::from(clock.0));
}

pub(super) fn read_clock(metadata: &MetadataMap) -> Result<Stamp, String> {
    let digits = text(metadata, CLOCK)?;
    digits.parse().map(Stamp).map_err(|_| format!("{CLOCK} is not a number"))
}

fn text(metadata: &MetadataMap, key: &str) -> Result<String, String> {
    let value = metadata.get(key).ok_or_else(|| format!("{key} is missing"))?;
    let encoded = value.to_str().map_err(|_| format!("{key} is not text"))?;
    let text = percent_decode_str(encoded).decode_utf8().map_err(|_| format!("{key} is not UTF-8"))?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_call_is_read_as_it_was_written(cluster in "\\PC{0,30}", from in "\\PC{1,30}", to in "\\PC{1,30}", clock: u64) {
            let call = Call { cluster, from: from.as_str().into(), to: to.as_str().into(), clock: Stamp(clock) };
            let mut metadata = MetadataMap::new();
            call.write(&mut metadata);
            prop_assert_eq!(Call::read(&metadata), Ok(call));
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let call = Call { cluster: "c".into(), from: "a".into(), to: "b".into(), clock: Stamp(1) };
        let mut metadata = MetadataMap::new();
        assert_eq!(Call::read(&metadata), Err("cluster is missing".into()));
        call.write(&mut metadata);
        metadata.insert(FROM_NODE, AsciiMetadataValue::from_static(""));
        assert_eq!(Call::read(&metadata), Err("field from-node: is empty".into()));
        metadata.insert(FROM_NODE, AsciiMetadataValue::from_static("%ff"));
        assert_eq!(Call::read(&metadata), Err("from-node is not UTF-8".into()));
        call.write(&mut metadata);
        metadata.insert(CLOCK, AsciiMetadataValue::from_static("-1"));
        assert_eq!(Call::read(&metadata), Err("clock is not a number".into()));
    }
}
