//! The commands that a relay must understand, and the answers that it gives itself (section 7.2).

use super::{
    amf0::{Amf0Error, Decoder, Value},
    message::kind,
};

/// A command message: name, transaction id, command object, and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The command's name.
    pub name: String,
    /// The transaction id; 0 asks for no answer.
    pub transaction: f64,
    /// The command object first, then the arguments.
    pub values: Vec<Value>,
}

/// Why a message is not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The payload is not AMF0.
    #[error(transparent)]
    Amf0(#[from] Amf0Error),
    /// The payload does not begin with a name.
    #[error("a command begins without a name")]
    NoName,
}

impl Command {
    /// Reads the payload of a message of type [`kind::COMMAND_AMF0`] or [`kind::COMMAND_AMF3`].
    pub fn parse(message_kind: u8, payload: &[u8]) -> Result<Self, CommandError> {
        let mut decoder = Decoder::new(body(message_kind, payload));
        let name = decoder.next_value()?.and_then(|v| v.as_text()).ok_or(CommandError::NoName)?;
        // Some clients leave the transaction id of onStatus-like calls out.
        let transaction = decoder.next_value()?.and_then(|v| v.as_number()).unwrap_or_default();
        let mut values = Vec::new();
        loop {
            match decoder.next_value() {
                Ok(Some(value)) => values.push(value),
                // What follows in AMF3 is for the origin, not for us.
                Ok(None) | Err(Amf0Error::Unsupported(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { name, transaction, values })
    }

    /// The command's name alone, where the rest does not matter.
    pub fn peek_name(message_kind: u8, payload: &[u8]) -> Option<String> {
        Decoder::new(body(message_kind, payload)).next_value().ok()??.as_text()
    }

    /// A text property of the command object.
    pub fn object_text(&self, key: &str) -> Option<String> {
        self.values.first()?.get(key)?.as_text()
    }

    /// The first argument behind the command object, as text: the stream name of publish and play.
    pub fn first_text(&self) -> Option<String> {
        self.values.get(1)?.as_text()
    }

    /// A text property of the information object of onStatus, `_result` and `_error`.
    pub fn info_text(&self, key: &str) -> Option<String> {
        self.values.iter().skip(1).find_map(|v| v.get(key))?.as_text()
    }
}

/// A command in AMF3 carries one more byte, which says that AMF0 follows.
fn body(message_kind: u8, payload: &[u8]) -> &[u8] {
    match payload {
        [0, rest @ ..] if message_kind == kind::COMMAND_AMF3 => rest,
        _ => payload,
    }
}

/// Replaces the message stream id that `deleteStream` and `closeStream`-like commands carry as their
/// argument, in place.
pub fn patch_stream_id_argument(message_kind: u8, payload: &mut [u8], map: impl Fn(u32) -> u32) {
    let skipped = payload.len() - body(message_kind, payload).len();
    let mut decoder = Decoder::new(&payload[skipped..]);
    for _ in 0..3 {
        if !matches!(decoder.next_value(), Ok(Some(_))) {
            return;
        }
    }
    let at = skipped + decoder.position();
    if let Ok(Some(Value::Number(id))) = decoder.next_value()
        && id >= 0.0
    {
        #[expect(clippy::cast_sign_loss, reason = "checked above")]
        let id = map(id as u32);
        payload[at + 1..at + 9].copy_from_slice(&f64::from(id).to_be_bytes());
    }
}

fn encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    values.iter().for_each(|v| v.encode(&mut out));
    out
}

/// The answer to connect, as SRS words it. `object_encoding` repeats the client's.
pub fn connect_result(transaction: f64, object_encoding: f64) -> Vec<u8> {
    encode(&[
        Value::string("_result"),
        Value::Number(transaction),
        Value::object([
            ("fmsVer", Value::string("FMS/3,5,3,888")),
            ("capabilities", Value::Number(127.0)),
            ("mode", Value::Number(1.0)),
        ]),
        Value::object([
            ("level", Value::string("status")),
            ("code", Value::string("NetConnection.Connect.Success")),
            ("description", Value::string("Connection succeeded")),
            ("objectEncoding", Value::Number(object_encoding)),
            (
                "data",
                Value::EcmaArray(
                    2,
                    vec![
                        (b"version".to_vec(), Value::string("3,5,3,888")),
                        (b"srs_server".to_vec(), Value::string(concat!("srs-proxy/", env!("CARGO_PKG_VERSION")))),
                    ],
                ),
            ),
        ]),
    ])
}

/// `onBWDone`, which SRS sends behind the answer to connect and some encoders wait for.
pub fn on_bw_done() -> Vec<u8> {
    encode(&[Value::string("onBWDone"), Value::Number(0.0), Value::Null])
}

/// The answer to a call that has nothing to say, such as releaseStream and FCPublish.
pub fn empty_result(transaction: f64) -> Vec<u8> {
    encode(&[Value::string("_result"), Value::Number(transaction), Value::Null, Value::Undefined])
}

/// The answer to createStream.
pub fn create_stream_result(transaction: f64, stream_id: u32) -> Vec<u8> {
    encode(&[Value::string("_result"), Value::Number(transaction), Value::Null, Value::Number(f64::from(stream_id))])
}

/// The refusal of a call, which ends the connection: the answer to a connect that cannot be taken.
pub fn error_result(transaction: f64, code: &str, description: &str) -> Vec<u8> {
    encode(&[Value::string("_error"), Value::Number(transaction), Value::Null, status(code, description)])
}

/// `onStatus` with the level "error".
pub fn on_status_error(code: &str, description: &str) -> Vec<u8> {
    encode(&[Value::string("onStatus"), Value::Number(0.0), Value::Null, status(code, description)])
}

fn status(code: &str, description: &str) -> Value {
    Value::object([
        ("level", Value::string("error")),
        ("code", Value::string(code)),
        ("description", Value::string(description)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_in_amf0_and_in_the_amf3_envelope() {
        let payload = encode(&[
            Value::string("publish"),
            Value::Number(5.0),
            Value::Null,
            Value::string("s?token=1"),
            Value::string("live"),
        ]);
        let command = Command::parse(kind::COMMAND_AMF0, &payload).unwrap();
        assert_eq!((command.name.as_str(), command.transaction), ("publish", 5.0));
        assert_eq!(command.first_text().as_deref(), Some("s?token=1"));

        let wrapped = [&[0], &payload[..]].concat();
        assert_eq!(Command::parse(kind::COMMAND_AMF3, &wrapped), Ok(command));
        assert_eq!(Command::peek_name(kind::COMMAND_AMF3, &wrapped).as_deref(), Some("publish"));
    }

    #[test]
    fn what_follows_in_amf3_does_not_hide_the_command() {
        let mut payload = encode(&[Value::string("play"), Value::Number(0.0), Value::Null, Value::string("s")]);
        payload.extend([0x11, 0x0A, 0x0B]);
        assert_eq!(Command::parse(kind::COMMAND_AMF0, &payload).unwrap().first_text().as_deref(), Some("s"));
    }

    #[test]
    fn a_message_without_a_name_is_no_command() {
        assert_eq!(Command::parse(kind::COMMAND_AMF0, &[]), Err(CommandError::NoName));
        assert_eq!(Command::parse(kind::COMMAND_AMF0, &[5]), Err(CommandError::NoName));
        assert!(Command::parse(kind::COMMAND_AMF0, &[2, 0, 9, b'x']).is_err());
    }

    #[test]
    fn the_stream_id_argument_is_patched_in_place() {
        let delete = |id| encode(&[Value::string("deleteStream"), Value::Number(9.0), Value::Null, Value::Number(id)]);
        let mut payload = delete(1.0);
        patch_stream_id_argument(kind::COMMAND_AMF0, &mut payload, |id| id + 4);
        assert_eq!(payload, delete(5.0));

        let mut short = encode(&[Value::string("deleteStream")]);
        patch_stream_id_argument(kind::COMMAND_AMF0, &mut short, |_| 7);
        assert_eq!(short, encode(&[Value::string("deleteStream")]));
    }

    #[test]
    fn a_status_says_level_code_and_description() {
        let command = Command::parse(kind::COMMAND_AMF0, &on_status_error("NetStream.Publish.Denied", "why")).unwrap();
        assert_eq!(command.info_text("level").as_deref(), Some("error"));
        assert_eq!(command.info_text("code").as_deref(), Some("NetStream.Publish.Denied"));
        assert_eq!(command.info_text("description").as_deref(), Some("why"));
    }
}
