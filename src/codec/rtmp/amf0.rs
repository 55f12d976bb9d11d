//! AMF0, the encoding of RTMP commands (Adobe, "Action Message Format -- AMF 0").

/// The deepest nesting that is decoded. Real connect objects nest two or three levels.
pub const MAX_DEPTH: usize = 32;

/// An AMF0 value. Strings are bytes: encoders send names in whatever code page they run.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Marker 0: a double.
    Number(f64),
    /// Marker 1.
    Boolean(bool),
    /// Markers 2 and 12: up to 65,535 bytes, or longer.
    String(Vec<u8>),
    /// Marker 3: properties in the order in which they came.
    Object(Vec<(Vec<u8>, Value)>),
    /// Marker 5.
    Null,
    /// Marker 6.
    Undefined,
    /// Marker 8: an object that says how many properties it has, not always truly.
    EcmaArray(u32, Vec<(Vec<u8>, Value)>),
    /// Marker 10.
    StrictArray(Vec<Value>),
    /// Marker 11: milliseconds since 1970, and a time zone that is to be ignored.
    Date(f64, i16),
}

/// Why bytes are not AMF0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Amf0Error {
    /// The bytes end inside a value.
    #[error("AMF0 value is cut short")]
    Truncated,
    /// The marker stands for a type that RTMP commands do not use.
    #[error("AMF0 marker {0} is not supported")]
    Unsupported(u8),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("AMF0 value is nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

mod marker {
    pub const NUMBER: u8 = 0;
    pub const BOOLEAN: u8 = 1;
    pub const STRING: u8 = 2;
    pub const OBJECT: u8 = 3;
    pub const NULL: u8 = 5;
    pub const UNDEFINED: u8 = 6;
    pub const ECMA_ARRAY: u8 = 8;
    pub const OBJECT_END: u8 = 9;
    pub const STRICT_ARRAY: u8 = 10;
    pub const DATE: u8 = 11;
    pub const LONG_STRING: u8 = 12;
}

impl Value {
    /// A string value.
    pub fn string(text: impl AsRef<[u8]>) -> Self {
        Self::String(text.as_ref().to_vec())
    }

    /// An object value.
    pub fn object<const N: usize>(properties: [(&str, Value); N]) -> Self {
        Self::Object(properties.into_iter().map(|(k, v)| (k.as_bytes().to_vec(), v)).collect())
    }

    /// The text of a string value; bytes that are not UTF-8 are replaced.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::String(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// The number of a number value.
    pub const fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A property of an object or ECMA array.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Object(properties) | Self::EcmaArray(_, properties) => {
                properties.iter().find(|(k, _)| k == key.as_bytes()).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    /// Appends the encoded value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                out.push(marker::NUMBER);
                out.extend(number.to_be_bytes());
            }
            Self::Boolean(value) => out.extend([marker::BOOLEAN, u8::from(*value)]),
            Self::String(bytes) => {
                if let Ok(len) = u16::try_from(bytes.len()) {
                    out.push(marker::STRING);
                    out.extend(len.to_be_bytes());
                } else {
                    out.push(marker::LONG_STRING);
                    out.extend((bytes.len() as u32).to_be_bytes());
                }
                out.extend(bytes);
            }
            Self::Object(properties) => {
                out.push(marker::OBJECT);
                encode_properties(properties, out);
            }
            Self::Null => out.push(marker::NULL),
            Self::Undefined => out.push(marker::UNDEFINED),
            Self::EcmaArray(count, properties) => {
                out.push(marker::ECMA_ARRAY);
                out.extend(count.to_be_bytes());
                encode_properties(properties, out);
            }
            Self::StrictArray(items) => {
                out.push(marker::STRICT_ARRAY);
                out.extend((items.len() as u32).to_be_bytes());
                for item in items {
                    item.encode(out);
                }
            }
            Self::Date(millis, zone) => {
                out.push(marker::DATE);
                out.extend(millis.to_be_bytes());
                out.extend(zone.to_be_bytes());
            }
        }
    }
}

fn encode_properties(properties: &[(Vec<u8>, Value)], out: &mut Vec<u8>) {
    for (key, value) in properties {
        let len = key.len().min(usize::from(u16::MAX));
        out.extend((len as u16).to_be_bytes());
        out.extend(&key[..len]);
        value.encode(out);
    }
    out.extend([0, 0, marker::OBJECT_END]);
}

/// Reads values one after the other.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Decoder<'a> {
    /// Reads from `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, len: bytes.len() }
    }

    /// The next value, or none at the end. Allocates no more than a small multiple of the bytes
    /// that are there, whatever they declare.
    pub fn next_value(&mut self) -> Result<Option<Value>, Amf0Error> {
        if self.bytes.is_empty() { Ok(None) } else { self.value(0).map(Some) }
    }

    /// How many bytes have been read.
    pub const fn position(&self) -> usize {
        self.len - self.bytes.len()
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Amf0Error> {
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or(Amf0Error::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Amf0Error> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(Amf0Error::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Amf0Error> {
        if depth > MAX_DEPTH {
            return Err(Amf0Error::TooDeep);
        }
        Ok(match self.array::<1>()?[0] {
            marker::NUMBER => Value::Number(f64::from_be_bytes(self.array()?)),
            marker::BOOLEAN => Value::Boolean(self.array::<1>()?[0] != 0),
            marker::STRING => Value::String(self.short_string()?),
            marker::LONG_STRING => {
                let len = u32::from_be_bytes(self.array()?);
                Value::String(self.take(len as usize)?.to_vec())
            }
            marker::OBJECT => Value::Object(self.properties(depth)?),
            marker::NULL => Value::Null,
            marker::UNDEFINED => Value::Undefined,
            marker::ECMA_ARRAY => {
                let count = u32::from_be_bytes(self.array()?);
                Value::EcmaArray(count, self.properties(depth)?)
            }
            marker::STRICT_ARRAY => {
                let count = u32::from_be_bytes(self.array()?);
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.value(depth + 1)?);
                }
                Value::StrictArray(items)
            }
            marker::DATE => Value::Date(f64::from_be_bytes(self.array()?), i16::from_be_bytes(self.array()?)),
            other => return Err(Amf0Error::Unsupported(other)),
        })
    }

    fn short_string(&mut self) -> Result<Vec<u8>, Amf0Error> {
        let len = u16::from_be_bytes(self.array()?);
        Ok(self.take(usize::from(len))?.to_vec())
    }

    fn properties(&mut self, depth: usize) -> Result<Vec<(Vec<u8>, Value)>, Amf0Error> {
        let mut properties = Vec::new();
        loop {
            let key = self.short_string()?;
            if key.is_empty() && self.bytes.first() == Some(&marker::OBJECT_END) {
                self.bytes = &self.bytes[1..];
                return Ok(properties);
            }
            properties.push((key, self.value(depth + 1)?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Value>, Amf0Error> {
        let mut decoder = Decoder::new(bytes);
        let mut values = Vec::new();
        while let Some(value) = decoder.next_value()? {
            values.push(value);
        }
        Ok(values)
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let key = || proptest::collection::vec(1..=255u8, 1..8);
        let leaf = prop_oneof![
            proptest::num::f64::NORMAL.prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::String),
            Just(Value::Null),
            Just(Value::Undefined),
            (proptest::num::f64::NORMAL, any::<i16>()).prop_map(|(t, z)| Value::Date(t, z)),
        ];
        leaf.prop_recursive(4, 64, 8, move |inner| {
            prop_oneof![
                proptest::collection::vec((key(), inner.clone()), 0..8).prop_map(Value::Object),
                (any::<u32>(), proptest::collection::vec((key(), inner.clone()), 0..8))
                    .prop_map(|(n, p)| Value::EcmaArray(n, p)),
                proptest::collection::vec(inner, 0..8).prop_map(Value::StrictArray),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back_as_it_was(values in proptest::collection::vec(any_value(), 0..6)) {
            let mut bytes = Vec::new();
            values.iter().for_each(|v| v.encode(&mut bytes));
            prop_assert_eq!(decode(&bytes).unwrap(), values);
        }

        #[test]
        fn a_value_that_is_cut_short_is_an_error_and_never_a_panic(value in any_value(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            value.encode(&mut bytes);
            let cut = cut.index(bytes.len());
            if cut > 0 {
                prop_assert_eq!(decode(&bytes[..cut]), Err(Amf0Error::Truncated));
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_long_string_uses_the_long_form() {
        let value = Value::String(vec![b'x'; 70_000]);
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        assert_eq!(bytes[0], marker::LONG_STRING);
        assert_eq!(decode(&bytes), Ok(vec![value]));
    }

    #[test]
    fn nesting_1000_deep_is_refused() {
        let mut object = Vec::new();
        let mut array = Vec::new();
        for _ in 0..1000 {
            object.extend([marker::OBJECT, 0, 1, b'a']);
            array.extend([marker::STRICT_ARRAY, 0, 0, 0, 1]);
        }
        assert_eq!(decode(&object), Err(Amf0Error::TooDeep));
        assert_eq!(decode(&array), Err(Amf0Error::TooDeep));
    }

    #[test]
    fn declared_sizes_allocate_nothing() {
        assert_eq!(decode(&[marker::STRICT_ARRAY, 255, 255, 255, 255]), Err(Amf0Error::Truncated));
        assert_eq!(decode(&[marker::LONG_STRING, 255, 255, 255, 255, 1]), Err(Amf0Error::Truncated));
        assert_eq!(decode(&[marker::ECMA_ARRAY, 255, 255, 255, 255]), Err(Amf0Error::Truncated));
    }
}
