//! One end of a WebRTC connection, without a socket.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::OnceLock,
    time::{Duration, Instant},
};

use str0m::{
    Event, IceConnectionState, Input, Output, Rtc, RtcConfig,
    config::DtlsCert,
    crypto::from_feature_flags,
    format::{Codec, PayloadParams},
    media::MediaKind,
    net::{Protocol, Receive},
};

/// How often, at the most, an end asks whether the other is still there. Browsers take seconds;
/// here, tests wait for it.
const CHECK: Duration = Duration::from_millis(500);

/// One end. After each call that changes it, what it has to send and to tell is taken with
/// [`Self::drain`].
pub struct Peer {
    pub rtc: Rtc,
    connected: bool,
    due: Instant,
}

/// One certificate for all, because to make one takes long.
static CERTIFICATE: OnceLock<DtlsCert> = OnceLock::new();

/// The settings that all ends share: VP8 and Opus.
pub fn config() -> RtcConfig {
    let provider = from_feature_flags();
    let certificate = CERTIFICATE.get_or_init(|| provider.dtls_provider.generate_certificate().unwrap());
    let mut config = RtcConfig::new()
        .set_dtls_cert(certificate.clone())
        .set_crypto_provider(provider.into())
        .clear_codecs()
        .enable_vp8(true)
        .enable_opus(true, false);
    config.set_max_stun_rto(CHECK);
    config
}

impl Peer {
    pub fn new(rtc: Rtc) -> Self {
        Self { rtc, connected: false, due: Instant::now() }
    }

    /// Whether the datagram is meant for this end.
    pub fn accepts(&self, input: &Input<'_>) -> bool {
        self.rtc.accepts(input)
    }

    /// Does what the time demands, if anything.
    pub fn tick(&mut self) {
        let now = Instant::now();
        if self.due <= now {
            self.input(Input::Timeout(now));
        }
    }

    pub fn input(&mut self, input: Input<'_>) {
        if self.rtc.handle_input(input).is_err() {
            self.rtc.disconnect();
        }
    }

    /// Sends what is to be sent, and gives what has happened.
    pub fn drain(&mut self, send: &mut dyn FnMut(SocketAddr, &[u8])) -> Vec<Event> {
        let mut events = Vec::new();
        while self.rtc.is_alive() {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(due)) => {
                    self.due = due;
                    break;
                }
                Ok(Output::Transmit(datagram)) => send(datagram.destination, &datagram.contents),
                Ok(Output::Event(Event::IceConnectionStateChange(IceConnectionState::Disconnected))) => {
                    // Before the first check of the other end it only means that the candidates told so
                    // far do not fit, as with addresses of two families.
                    if self.connected {
                        self.rtc.disconnect();
                    }
                }
                Ok(Output::Event(event)) => {
                    self.connected |= event == Event::Connected;
                    events.push(event);
                }
                Err(_) => self.rtc.disconnect(),
            }
        }
        events
    }

    /// The codec agreed on for a kind of media.
    pub fn params(&self, kind: MediaKind) -> Option<PayloadParams> {
        let codec = if kind.is_video() { Codec::Vp8 } else { Codec::Opus };
        self.rtc.codec_config().find(|params| params.spec().codec == codec).copied()
    }
}

/// A datagram from the socket and its source, if one comes before the socket's read timeout. If
/// `seen_as` is given, the datagram says that it comes from there.
pub fn receive<'a>(
    socket: &UdpSocket,
    destination: SocketAddr,
    seen_as: Option<SocketAddr>,
    buffer: &'a mut [u8],
) -> Option<(SocketAddr, Input<'a>)> {
    let (length, source) = socket.recv_from(buffer).ok()?;
    let said = seen_as.unwrap_or(source);
    let datagram = Receive::new(Protocol::Udp, said, destination, &buffer[..length]).ok()?;
    Some((source, Input::Receive(Instant::now(), datagram)))
}
