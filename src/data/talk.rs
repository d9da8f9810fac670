//! Conversations -> tokens of which every reply is learnt, each with the token that ends its turn.
//!
//! The chat template writes the whole conversation up to its last reply. Where a reply begins is known by what
//! the template writes of the messages before it with a generation prompt: a beginning of the whole text, behind
//! which the model speaks. The reply reaches to the first end of turn behind its words. So what is learnt is what
//! the model has to say after the prompt that `generate` gives it, and nothing else; transformers'
//! `return_assistant_tokens_mask` marks the same tokens where a template has `{% generation %}`.
//!
//! A template of which this is not true (it rewrites earlier turns, or writes no end of turn), or none at all, leaves
//! the last reply, which is learnt behind all that comes before it; such conversations are counted.

use std::ops::Range;

use super::encode::{Encoded, Encoder};
use super::fit::{Fitted, Limits};
use super::rows::Row;
use crate::error::Result;
use crate::text::Message;

/// A token and the bytes of the text that it stands for.
type Placed = (u32, Range<usize>);

/// A conversation as tokens, and the stretches of them that are replies.
struct Talk {
    ids: Vec<u32>,
    replies: Vec<Range<usize>>,
}

impl Encoder<'_> {
    /// A conversation whose replies are all learnt; none where nobody replies. It may have as many tokens as a prompt
    /// and a response together; of a longer one the last replies are left out, and what was said for them. One
    /// that is too long with its first reply alone is fitted as any row is.
    pub(super) fn fit_talk(&self, messages: &[Message], limits: Limits) -> Result<Option<Fitted>> {
        let places: Vec<usize> = (0..messages.len()).filter(|&at| messages[at].role == "assistant").collect();
        let (Some(&first), Some(&last)) = (places.first(), places.last()) else { return Ok(None) };
        let up_to = |at: usize| self.fit(&Row::Chat(messages[..=at].to_vec()), limits);
        let Some(mut talk) = self.talk(&messages[..=last], &places)? else {
            return Ok(Some(Fitted { last_alone: places.len() > 1, ..up_to(last)? }));
        };
        let fitting =
            talk.replies.iter().filter(|reply| reply.end <= limits.prompt + limits.response).count();
        let left_out = places.len() - fitting;
        talk.replies.truncate(fitting);
        let (Some(begin), Some(end)) = (talk.replies.first(), talk.replies.last()) else {
            return Ok(Some(Fitted { left_out: places.len() - 1, ..up_to(first)? }));
        };
        talk.ids.truncate(end.end);
        let given = talk.replies.windows(2).map(|two| two[0].end..two[1].start).filter(|g| !g.is_empty());
        let fitted = Fitted::plain(Encoded { prompt_len: begin.start, ids: talk.ids }, false, false);
        Ok(Some(Fitted { given: given.collect(), left_out, ..fitted }))
    }

    /// The conversation as the chat template writes it; none where that does not tell the replies at these places apart.
    fn talk(&self, messages: &[Message], places: &[usize]) -> Result<Option<Talk>> {
        let (Some(chat), Some(eos)) = (self.chat(), self.eos()) else { return Ok(None) };
        let text = chat.render(messages, false)?;
        let mut begins = Vec::with_capacity(places.len());
        for &place in places {
            // A template may refuse a conversation that ends here, as one without a user.
            let Ok(before) = chat.render(&messages[..place], true) else { return Ok(None) };
            if !text.starts_with(&before) || begins.last().is_some_and(|last| *last >= before.len()) {
                return Ok(None);
            }
            begins.push(before.len());
        }
        let tokens = self.cut_at(&text, &begins)?;
        let mut replies = Vec::with_capacity(places.len());
        for (n, (&place, &begin)) in places.iter().zip(&begins).enumerate() {
            let end = begins.get(n + 1).copied().unwrap_or(text.len());
            let words = messages[place].content.trim();
            let Some(at) = text[begin..end].find(words) else { return Ok(None) };
            let said = begin + at + words.len();
            let inside = |place: &Range<usize>| place.start >= said && place.end <= end;
            let stop = tokens.iter().position(|(id, place)| *id == eos && inside(place));
            let Some(stop) = stop else { return Ok(None) };
            let start = tokens.iter().position(|(_, place)| place.start >= begin).unwrap_or(stop);
            replies.push(start..stop + 1);
        }
        Ok(Some(Talk { ids: tokens.into_iter().map(|(id, _)| id).collect(), replies }))
    }

    /// The tokens of a text, none across one of these places. Only where one would be is the text cut there and its
    /// pieces tokenised apart: some tokenizers begin a piece otherwise than the middle of a text.
    fn cut_at(&self, text: &str, places: &[usize]) -> Result<Vec<Placed>> {
        let whole = self.tokenizer().encode_placed(text)?;
        let crossed = |(_, token): &Placed| places.iter().any(|at| token.start < *at && *at < token.end);
        if !whole.iter().any(crossed) {
            return Ok(whole);
        }
        let mut tokens = Vec::with_capacity(whole.len());
        let starts = std::iter::once(0).chain(places.iter().copied());
        for (start, end) in starts.zip(places.iter().copied().chain([text.len()])) {
            let piece = self.tokenizer().encode_placed(&text[start..end])?;
            tokens.extend(piece.into_iter().map(|(id, place)| (id, place.start + start..place.end + start)));
        }
        Ok(tokens)
    }
}
