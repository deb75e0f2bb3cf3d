//! What a member asks the leader for, and what the leader answers, as the bytes of a peer call.
//!
//! Only what is definite is an answer: done, so already, refused. That the member which was asked does not lead, or that
//! nobody knows what became of it, is an error of the call ([`CallError`]), and the caller goes on from there.

use bytes::Bytes;
use kvd_raftpb::node::{AnswerKind, Change, ChangeKind, LeaderAnswer, LeaderRequest};
use kvd_raftpb::peers::CallError;
use prost::Message as _;

use crate::changes::{Answer, Wish};
use crate::error::Error;
use crate::membership::{self, ChangeOutcome, MembershipChange, MembershipRequest, Refusal};

/// A request and whether it was asked for before.
pub(crate) fn encode_request(wish: &Wish, again: bool) -> Bytes {
    let mut pb = LeaderRequest { again, ..LeaderRequest::default() };
    match wish {
        Wish::Change(request) => {
            pb.force = request.force.clone().unwrap_or_default();
            pb.changes = request.changes.iter().map(encode_change).collect();
        }
        Wish::Transfer(to) => pb.transfer_to = to.unwrap_or(0),
    }
    pb.encode_to_vec().into()
}

fn encode_change(change: &MembershipChange) -> Change {
    let (kind, peer_urls) = match change {
        MembershipChange::Add { peer_urls, .. } => (ChangeKind::Add, peer_urls.clone()),
        MembershipChange::Remove { .. } => (ChangeKind::Remove, Vec::new()),
        MembershipChange::Promote { .. } => (ChangeKind::Promote, Vec::new()),
    };
    Change { kind: kind.into(), id: change.id(), peer_urls }
}

/// Reads a request of a peer, and checks it as one of a user.
pub(crate) fn decode_request(bytes: Bytes) -> Result<(Wish, bool), String> {
    let pb = LeaderRequest::decode(bytes).map_err(|error| format!("not a request to a leader: {error}"))?;
    let again = pb.again;
    if pb.changes.is_empty() {
        return Ok((Wish::Transfer(Some(pb.transfer_to).filter(|to| *to != 0)), again));
    }
    let changes: Result<Vec<_>, String> = pb.changes.into_iter().map(decode_change).collect();
    let request =
        MembershipRequest { changes: changes?, force: Some(pb.force).filter(|reason| !reason.is_empty()) };
    membership::check(&request).map_err(|refusal| refusal.to_string())?;
    Ok((Wish::Change(request), again))
}

fn decode_change(change: Change) -> Result<MembershipChange, String> {
    let kind = change.kind();
    let Change { id, peer_urls, kind: number } = change;
    match kind {
        ChangeKind::Add => Ok(MembershipChange::Add { id, peer_urls }),
        ChangeKind::Remove => Ok(MembershipChange::Remove { id }),
        ChangeKind::Promote => Ok(MembershipChange::Promote { id }),
        ChangeKind::Unspecified => {
            Err(format!("a change of kind {number}, which this version does not know"))
        }
    }
}

/// The bytes of an answer, or why there is none.
pub(crate) fn encode_answer(result: Result<Answer, Error>) -> Result<Bytes, CallError> {
    let mut pb = LeaderAnswer::default();
    let kind = match result {
        Ok(Answer::Changed(ChangeOutcome::Applied { index })) => {
            pb.index = index;
            AnswerKind::Applied
        }
        Ok(Answer::Changed(ChangeOutcome::AlreadySo)) => AnswerKind::AlreadySo,
        Ok(Answer::Leads(id)) => {
            pb.id = id;
            AnswerKind::Leads
        }
        Err(Error::Refused(refusal)) => encode_refusal(refusal, &mut pb),
        Err(error @ Error::Unknown { .. }) => return Err(CallError::unknown(error.to_string())),
        Err(error) => return Err(CallError::not_done(error.to_string())),
    };
    pb.set_kind(kind);
    Ok(pb.encode_to_vec().into())
}

fn encode_refusal(refusal: Refusal, pb: &mut LeaderAnswer) -> AnswerKind {
    match refusal {
        Refusal::Removed(id) => {
            pb.id = id;
            AnswerKind::Removed
        }
        Refusal::Unknown(id) => {
            pb.id = id;
            AnswerKind::NoMember
        }
        Refusal::Conflict { id, urls } => {
            (pb.id, pb.urls) = (id, urls);
            AnswerKind::Conflict
        }
        Refusal::LastVoter(id) => {
            pb.id = id;
            AnswerKind::LastVoter
        }
        Refusal::Invalid(words) => {
            pb.words = words;
            AnswerKind::Invalid
        }
        Refusal::LosesQuorum { voters, active } => {
            (pb.voters, pb.active) = (voters, active);
            AnswerKind::LosesQuorum
        }
        Refusal::NotCaughtUp(id) => {
            pb.id = id;
            AnswerKind::NotCaughtUp
        }
        Refusal::NotTakenOver { to, leader } => {
            (pb.id, pb.index) = (to, leader);
            AnswerKind::NotTakenOver
        }
        Refusal::Joint => AnswerKind::Joint,
    }
}

/// Reads an answer of the leader.
pub(crate) fn decode_answer(bytes: Bytes) -> Result<Result<Answer, Error>, CallError> {
    let pb = LeaderAnswer::decode(bytes)
        .map_err(|error| CallError::unknown(format!("the leader's answer cannot be read: {error}")))?;
    let kind = pb.kind();
    let LeaderAnswer { index, id, urls, words, voters, active, .. } = pb;
    let refusal = match kind {
        AnswerKind::Applied => return Ok(Ok(Answer::Changed(ChangeOutcome::Applied { index }))),
        AnswerKind::AlreadySo => return Ok(Ok(Answer::Changed(ChangeOutcome::AlreadySo))),
        AnswerKind::Leads => return Ok(Ok(Answer::Leads(id))),
        AnswerKind::Removed => Refusal::Removed(id),
        AnswerKind::NoMember => Refusal::Unknown(id),
        AnswerKind::Conflict => Refusal::Conflict { id, urls },
        AnswerKind::LastVoter => Refusal::LastVoter(id),
        AnswerKind::Invalid => Refusal::Invalid(words),
        AnswerKind::LosesQuorum => Refusal::LosesQuorum { voters, active },
        AnswerKind::NotCaughtUp => Refusal::NotCaughtUp(id),
        AnswerKind::NotTakenOver => Refusal::NotTakenOver { to: id, leader: index },
        AnswerKind::Joint => Refusal::Joint,
        AnswerKind::Unspecified => {
            return Err(CallError::unknown(
                "the leader's answer is of a kind that this version does not know",
            ));
        }
    };
    Ok(Err(Error::Refused(refusal)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_arrive_as_they_were() {
        let changes = vec![
            MembershipChange::Add { id: 4, peer_urls: vec!["http://d:4".into()] },
            MembershipChange::Promote { id: u64::MAX },
            MembershipChange::Remove { id: 1 },
        ];
        let forced = MembershipRequest { changes: changes.clone(), force: Some("the rack burns".into()) };
        for wish in [
            Wish::Change(forced),
            Wish::Change(MembershipRequest { changes, force: None }),
            Wish::Transfer(None),
            Wish::Transfer(Some(3)),
        ] {
            for again in [false, true] {
                assert_eq!(decode_request(encode_request(&wish, again)), Ok((wish.clone(), again)));
            }
        }
    }

    #[test]
    fn requests_that_no_user_could_make_are_refused() {
        let pb = |kind: i32, id| {
            let changes = vec![Change { kind, id, peer_urls: Vec::new() }];
            Bytes::from(LeaderRequest { changes, ..LeaderRequest::default() }.encode_to_vec())
        };
        assert!(decode_request(pb(2, 1)).is_ok());
        assert!(decode_request(pb(7, 1)).is_err_and(|why| why.contains("kind 7")));
        assert!(decode_request(pb(1, 1)).is_err(), "a member without a URL");
        assert!(decode_request(pb(2, 0)).is_err());
        assert!(decode_request(Bytes::from_static(b"\xff\xff")).is_err());
    }

    #[test]
    fn answers_arrive_as_they_were() {
        let refusals = [
            Refusal::Removed(1),
            Refusal::Unknown(2),
            Refusal::Conflict { id: 3, urls: vec!["http://c:3".into()] },
            Refusal::LastVoter(4),
            Refusal::Invalid("words".into()),
            Refusal::LosesQuorum { voters: vec![1, 2], active: vec![1] },
            Refusal::NotCaughtUp(5),
            Refusal::NotTakenOver { to: 6, leader: 7 },
            Refusal::Joint,
        ];
        let good = [
            Answer::Changed(ChangeOutcome::Applied { index: 9 }),
            Answer::Changed(ChangeOutcome::AlreadySo),
            Answer::Leads(8),
        ];
        let refused = refusals.into_iter().map(|refusal| Err(Error::Refused(refusal)));
        for answer in good.into_iter().map(Ok).chain(refused) {
            let bytes = encode_answer(answer.clone()).unwrap();
            assert_eq!(decode_answer(bytes), Ok(answer));
        }
    }

    #[test]
    fn what_is_no_answer_says_whether_something_may_have_been_done() {
        for error in [Error::NoLeader, Error::Overloaded, Error::Stopped, Error::Removed] {
            assert!(matches!(encode_answer(Err(error)), Err(CallError::NotDone { .. })));
        }
        let unknown = encode_answer(Err(Error::Unknown { reason: "x" }));
        assert!(matches!(unknown, Err(CallError::Unknown { .. })));
        assert!(matches!(decode_answer(Bytes::from_static(b"\xff")), Err(CallError::Unknown { .. })));
        assert!(matches!(decode_answer(Bytes::new()), Err(CallError::Unknown { .. })));
    }
}
