//! A piece of a stream on its way to a client. Its bytes are counted when it is over: it is short, and
//! there are many.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::{error::Result, metrics::Metrics, relay::http::OriginBody, session::Delivery};

/// The body of an answer.
pub(super) struct Counted {
    body: OriginBody,
    delivery: Delivery,
    received: u64,
    metrics: Metrics,
}

impl Counted {
    pub fn new(body: OriginBody, delivery: Delivery, metrics: &Metrics) -> Self {
        Self { body, delivery, received: 0, metrics: metrics.clone() }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = crate::error::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.received += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.http().piece(self.delivery, 0, self.received);
    }
}
