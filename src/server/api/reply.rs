//! Answers in the shape of SRS's: `code`, `server`, `service` and `pid` above what was asked for.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    fanout::{Answer, ReplyError, Target},
    merge::{self, Part, Reading, Shape},
};

/// Who answers: this node.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// The node's name.
    pub(super) server: String,
    /// One run of it.
    pub(super) service: String,
}

/// What origins have answered.
#[derive(Default)]
pub(super) struct Answers {
    /// Those that have what was asked for, ordered by id.
    pub(super) parts: Vec<Part>,
    /// How many say that they do not have it.
    missing: usize,
    /// Those that do not answer, or not so that it can be used.
    unanswered: Vec<(String, ReplyError)>,
}

impl Answers {
    /// Reads what came. `missing` are the codes by which an origin says that it has no such thing.
    pub(super) fn read(came: Vec<(Target, Result<Answer, ReplyError>)>, shape: Shape, missing: &[i64]) -> Self {
        let mut answers = Self::default();
        for (target, answer) in came {
            let origin = target.id.as_str().to_owned();
            // The body ends here, and with it what it takes of the bound.
            let read = answer.and_then(|answer| match answer.missing {
                false => merge::read(&answer.body, shape, missing).map_err(ReplyError::from),
                true if missing.is_empty() => Err(ReplyError::from("it answers with status 404")),
                true => Ok(Reading::Missing),
            });
            match read {
                Ok(Reading::Found(value)) => answers.parts.push(Part { origin, tag: target.tag, value }),
                Ok(Reading::Missing) => answers.missing += 1,
                Err(error) => answers.unanswered.push((origin, error)),
            }
        }
        answers
    }

    /// How many origins were asked.
    fn asked(&self) -> usize {
        self.parts.len() + self.missing + self.unanswered.len()
    }

    /// Whether origins were asked and none has answered.
    pub(super) fn none(&self) -> bool {
        self.parts.is_empty() && self.missing == 0 && !self.unanswered.is_empty()
    }

    /// Names the origins that have not answered, if there are any.
    pub(super) fn name_unanswered(&self, to: &mut Map<String, Value>) {
        if !self.unanswered.is_empty() {
            let name = |(origin, no): &(String, ReplyError)| json!({"origin": origin, "error": no.error});
            to.insert("unanswered".into(), self.unanswered.iter().map(name).collect());
        }
    }

    /// The answer where no origin has answered. If all want to know who asks, so does this.
    pub(super) fn bad_gateway(&self, callback: Option<&str>) -> Response {
        let challenges: Vec<_> = self.unanswered.iter().filter_map(|(_, no)| no.challenge.as_ref()).collect();
        let challenge = challenges.first().filter(|_| challenges.len() == self.asked());
        let status = if challenge.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_GATEWAY };
        let mut body = Map::new();
        body.insert("code".into(), status.as_u16().into());
        body.insert("error".into(), "no origin has answered".into());
        self.name_unanswered(&mut body);
        let mut response = render(status, body, callback);
        if let Some(challenge) = challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, (*challenge).clone());
        }
        response
    }
}

impl Identity {
    /// What stands above every answer.
    pub(super) fn head(&self) -> Map<String, Value> {
        let mut head = Map::new();
        head.insert("code".into(), 0.into());
        head.insert("server".into(), self.server.clone().into());
        head.insert("service".into(), self.service.clone().into());
        head.insert("pid".into(), std::process::id().to_string().into());
        head
    }
}

/// The answer as JSON, or as a call of the caller's function.
pub(super) fn render(status: StatusCode, body: Map<String, Value>, callback: Option<&str>) -> Response {
    let json = Value::Object(body).to_string();
    let (content, body) = match callback {
        // A script must be loaded for the function to learn of an error.
        Some(function) => ("text/javascript", format!("{function}({json})")),
        None => ("application/json", json),
    };
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
    response
}
