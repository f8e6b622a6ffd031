//! What elements leave behind in their folders, if their job asks for it. Then each has a frame of
//! its own.

use std::sync::Arc;

use protocol::agent::Note;
use protocol::job::ElementError;

use super::Lane;
use crate::artifacts::{self, Collected, Place};
use crate::death::Death;
use crate::runtimes::Outcomes;
use crate::scratch::WorkerScratch;
use crate::worker::Worker;

impl Lane {
    /// Gives the next element empty folders.
    pub(super) async fn empty_folders(&mut self) -> Result<(), Death> {
        let scratch = self.worker.as_ref().map(Worker::scratch);
        let Some(scratch) = scratch.filter(|_| self.key.artifacts) else { return Ok(()) };
        scratch.empty_for_element().await.map_err(|error| {
            Death::Untrusted(format!("the folders of its elements could not be emptied: {error}"))
        })
    }

    /// Puts what the element has left behind whose outcome has come. If not all of it can be kept,
    /// its value is an error.
    pub(super) async fn collect(&mut self, outcomes: &mut Outcomes) -> Collected {
        let scratch = self.worker.as_ref().map(Worker::scratch);
        let place = scratch.filter(|_| self.key.artifacts).map(|scratch| self.place(scratch));
        let (Some(place), [outcome]) = (place, &mut outcomes[..]) else {
            return Collected::default();
        };
        let blobs = Arc::clone(&self.work.blobs);
        match artifacts::collect(place, &blobs).await {
            Ok(collected) => collected,
            Err(error) => match outcome {
                Ok(_) => {
                    *outcome = Err(error);
                    Collected::default()
                }
                Err(_) => refused(&error),
            },
        }
    }

    /// Puts what an element has left behind that took its worker with it.
    pub(super) async fn collect_of_dead(&mut self, scratch: &WorkerScratch) -> Collected {
        if !self.key.artifacts {
            return Collected::default();
        }
        let (place, blobs) = (self.place(scratch), Arc::clone(&self.work.blobs));
        artifacts::collect(place, &blobs).await.unwrap_or_else(|error| refused(&error))
    }

    fn place(&self, scratch: &WorkerScratch) -> Place {
        Place {
            folder: scratch.artifacts(),
            identity: scratch.identity().clone(),
            most_bytes: self.work.pool.confinement().artifacts(),
        }
    }
}

/// An element has one error: of another one there is a remark.
fn refused(error: &ElementError) -> Collected {
    let left_out = Some(artifacts::remark(error.message.clone()));
    Collected { left_out, ..Collected::default() }
}

impl Collected {
    /// Writes into the notes what is to say of the element at `position`.
    pub(super) fn note(self, position: u32, notes: &mut Vec<Note>) {
        if self.artifacts.is_empty() && self.left_out.is_none() {
            return;
        }
        let at = match notes.iter().position(|note| note.position == position) {
            Some(at) => at,
            None => {
                notes.push(Note { position, ..Note::default() });
                notes.len() - 1
            }
        };
        notes[at].artifacts = self.artifacts;
        notes[at].conditions.extend(self.left_out);
    }
}
