//! The words of texts, for comparing them with a question: which texts have them, how often, and how rare they are.

use tokio_postgres::types::Type;

use super::database::Database;
use super::error::StoreError;

/// How often a word stands in a text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WordCount {
    pub(crate) text_id: i64,
    /// Position in the list of words asked for.
    pub(crate) word: usize,
    pub(crate) count: i32,
    /// Distinct words of the text.
    pub(crate) text_words: i32,
}

/// How many texts there are, and how many distinct words they have on average.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextStatistics {
    pub(crate) texts: i64,
    pub(crate) average_words: f64,
}

impl Database {
    /// The words of a question as texts are compared by: stems, without the most common words of the language. `question`
    /// holds words with spaces between them.
    pub(crate) async fn words_of(&self, question: &str) -> Result<Vec<String>, StoreError> {
        let client = self.reader().await?;
        let rows = client
            .query_typed(
                "SELECT lexeme FROM unnest(otel.otel_text_words($1)) ORDER BY lexeme",
                &[(&question, Type::TEXT)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Counts all texts. Reads the whole table: callers remember the answer for a while.
    pub(crate) async fn text_statistics(&self) -> Result<TextStatistics, StoreError> {
        let client = self.reader().await?;
        let row = client
            .query_typed_one(
                "SELECT count(*), coalesce(avg(length(words)), 1)::double precision FROM otel.otel_texts",
                &[],
            )
            .await?;
        Ok(TextStatistics { texts: row.get(0), average_words: row.get(1) })
    }

    /// In how many texts each word stands.
    pub(crate) async fn text_frequencies(&self, words: &[String]) -> Result<Vec<i64>, StoreError> {
        let client = self.reader().await?;
        let queries: Vec<String> = words.iter().map(|word| quote(word)).collect();
        let rows = client
            .query_typed(
                "SELECT (SELECT count(*) FROM otel.otel_texts WHERE words @@ q.word::tsquery)
                 FROM unnest($1::text[]) WITH ORDINALITY AS q (word, place) ORDER BY q.place",
                &[(&queries, Type::TEXT_ARRAY)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Texts with at least one of the words, newest first.
    pub(crate) async fn texts_with_words(&self, words: &[&str], limit: i64) -> Result<Vec<i64>, StoreError> {
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let client = self.reader().await?;
        let any = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" | ");
        let rows = client
            .query_typed(
                "SELECT text_id FROM otel.otel_texts WHERE words @@ $1::text::tsquery ORDER BY text_id DESC LIMIT $2",
                &[(&any, Type::TEXT), (&limit, Type::INT8)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Which of the texts are sentences that begin with a failure. Messages of agents begin with who speaks, and a colon.
    pub(crate) async fn failing_texts(&self, texts: &[i64]) -> Result<Vec<i64>, StoreError> {
        self.texts_like(texts, "^[^:]{1,200} (failed (calling|in)|reports an error)").await
    }

    /// Which of the texts are sentences about what went well and took long.
    pub(crate) async fn slow_texts(&self, texts: &[i64]) -> Result<Vec<i64>, StoreError> {
        self.texts_like(texts, "^.{1,255} was slow, took ").await
    }

    async fn texts_like(&self, texts: &[i64], pattern: &str) -> Result<Vec<i64>, StoreError> {
        let client = self.reader().await?;
        let rows = client
            .query_typed(
                "SELECT text_id FROM otel.otel_texts WHERE text_id = ANY($1) AND text ~ $2",
                &[(&texts, Type::INT8_ARRAY), (&pattern, Type::TEXT)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// How often the words stand in the texts; pairs without any are left out.
    pub(crate) async fn word_counts(&self, texts: &[i64], words: &[String]) -> Result<Vec<WordCount>, StoreError> {
        let client = self.reader().await?;
        let rows = client
            .query_typed(
                "SELECT x.text_id, array_position($2::text[], w.lexeme), cardinality(w.positions), length(x.words)
                 FROM otel.otel_texts x CROSS JOIN LATERAL unnest(x.words) AS w
                 WHERE x.text_id = ANY($1) AND w.lexeme = ANY($2::text[])",
                &[(&texts, Type::INT8_ARRAY), (&words, Type::TEXT_ARRAY)],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| WordCount {
                text_id: row.get(0),
                word: usize::try_from(row.get::<_, i32>(1) - 1).unwrap_or_default(),
                count: row.get::<_, Option<i32>>(2).unwrap_or(1),
                text_words: row.get(3),
            })
            .collect())
    }
}

/// A word as a query of its own.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\\', "\\\\").replace('\'', "''"))
}
