-- Who had recorded what stands, and since when another process drives it: its owner is whoever adopted it last.

ALTER TABLE unanimity.decisions ADD COLUMN decided_by text, ADD COLUMN adopted_at timestamptz;
