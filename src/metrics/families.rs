//! Writes families of metrics, one after the other.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::label::{Labels, Pairs, Table};

/// Where families are written. Names are given without their unit and without `_total`.
pub(super) struct Families<'a>(pub DescriptorEncoder<'a>);

/// A name, with its unit if it has one, and what it means.
#[derive(Clone, Copy)]
pub(super) struct Family<'a> {
    pub name: &'a str,
    pub unit: Option<&'a Unit>,
    pub help: &'a str,
}

/// A family of numbers without a unit.
pub(super) const fn plain<'a>(name: &'a str, help: &'a str) -> Family<'a> {
    Family { name, unit: None, help }
}

/// A family of times in seconds.
pub(super) const fn seconds<'a>(name: &'a str, help: &'a str) -> Family<'a> {
    Family { name, unit: Some(&Unit::Seconds), help }
}

/// A family of sizes in bytes.
pub(super) const fn bytes<'a>(name: &'a str, help: &'a str) -> Family<'a> {
    Family { name, unit: Some(&Unit::Bytes), help }
}

impl Families<'_> {
    /// A family with a metric for each value of its labels.
    pub fn table<L: Labels, M: EncodeMetric + TypedMetric>(
        &mut self,
        family: Family<'_>,
        table: &Table<L, M>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(family.name, family.help, family.unit, M::TYPE)?;
        table.iter().try_for_each(|(labels, metric)| encode(&mut encoder, &labels, metric))
    }

    /// A family with one counter that others count.
    pub fn counter<V: EncodeCounterValue>(&mut self, family: Family<'_>, value: V) -> fmt::Result {
        self.metric(family, &ConstCounter::new(value))
    }

    /// A family of counters that others count.
    pub fn counters<V: EncodeCounterValue>(
        &mut self,
        family: Family<'_>,
        values: impl IntoIterator<Item = (Pairs, V)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(family.name, family.help, family.unit, MetricType::Counter)?;
        let mut values = values.into_iter();
        values.try_for_each(|(labels, value)| encode(&mut encoder, &labels, &ConstCounter::new(value)))
    }

    /// A family of values that rise and fall.
    pub fn gauges<V: EncodeGaugeValue>(
        &mut self,
        family: Family<'_>,
        values: impl IntoIterator<Item = (Pairs, V)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(family.name, family.help, family.unit, MetricType::Gauge)?;
        let mut values = values.into_iter();
        values.try_for_each(|(labels, value)| encode(&mut encoder, &labels, &ConstGauge::new(value)))
    }

    /// A family with one value that rises and falls.
    pub fn gauge<V: EncodeGaugeValue>(&mut self, family: Family<'_>, value: V) -> fmt::Result {
        self.metric(family, &ConstGauge::new(value))
    }

    /// A family with a metric that is what it is.
    pub fn metric<M: EncodeMetric + TypedMetric>(&mut self, family: Family<'_>, metric: &M) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(family.name, family.help, family.unit, M::TYPE)?)
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, labels: &Pairs, metric: &impl EncodeMetric) -> fmt::Result {
    metric.encode(encoder.encode_family(labels)?)
}
