//! Who talks to whom: the usernames of ICE.

use super::{Description, Line, MAX_UFRAG};

/// The usernames that STUN requests to the answering side carry, `ANSWER_UFRAG:OFFER_UFRAG` (RFC 8445,
/// section 7.2.2), without repeats: one for each section of media, as they correspond by their order.
///
/// A section that names no fragment has that of the session (RFC 8839, section 5.4). If there is none
/// either, it shares the transport of another one (RFC 8843, section 7.1.3) and has no username of its
/// own; nor has a section that is rejected.
pub fn ice_pairs(offer: &Description<'_>, answer: &Description<'_>) -> Vec<String> {
    let (offer, answer) = (Ufrags::of(offer), Ufrags::of(answer));
    let mut pairs: Vec<String> = Vec::new();
    let mut add = |answer: Option<&str>, offer: Option<&str>| {
        let (Some(answer), Some(offer)) = (answer, offer) else { return };
        let pair = format!("{answer}:{offer}");
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    };
    for (theirs, ours) in answer.media.iter().zip(&offer.media) {
        add(theirs.ufrag.filter(|_| !theirs.rejected), ours.ufrag);
    }
    // The one transport of all need not have the same place in both.
    if pairs.is_empty()
        && let (Some(answer), Some(offer)) = (answer.any(), offer.any())
    {
        pairs.push(format!("{answer}:{offer}"));
    }
    pairs
}

/// Whether a STUN request can carry the fragment, whoever made it: more than the characters of
/// RFC 8839, since some peers use others. A colon or a hash would end it.
pub(super) fn is_ufrag(text: &str) -> bool {
    (1..=MAX_UFRAG).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b':' | b'#'))
}

/// The fragments of a description.
pub(super) struct Ufrags<'a> {
    session: Option<&'a str>,
    media: Vec<Media<'a>>,
}

struct Media<'a> {
    /// With that of the session as default.
    ufrag: Option<&'a str>,
    rejected: bool,
}

impl<'a> Ufrags<'a> {
    pub(super) fn of(description: &Description<'a>) -> Self {
        let sections = description.sections();
        let mut sections = sections.iter();
        let session = sections.next().and_then(|lines| ufrag(lines));
        let media = sections.map(|lines| Media { ufrag: ufrag(lines).or(session), rejected: is_rejected(lines) });
        Self { session, media: media.collect() }
    }

    /// Any of them, the first one of a section that is not rejected if possible.
    pub(super) fn any(&self) -> Option<&'a str> {
        let live = self.media.iter().filter(|media| !media.rejected).find_map(|media| media.ufrag);
        live.or_else(|| self.all().next())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.session.into_iter().chain(self.media.iter().filter_map(|media| media.ufrag))
    }
}

fn ufrag<'a>(lines: &[Line<'a>]) -> Option<&'a str> {
    lines.iter().find_map(|line| line.content.strip_prefix("a=ice-ufrag:")).map(str::trim_ascii)
}

/// Port 0 rejects a section, unless it only says that the section has no transport of its own (RFC 8843,
/// section 6).
pub(super) fn is_rejected(lines: &[Line<'_>]) -> bool {
    lines.first().and_then(Line::media_port) == Some(0) && !lines.iter().any(|line| line.content == "a=bundle-only")
}
