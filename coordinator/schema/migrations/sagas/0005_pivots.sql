-- Where there is no way back from, by definition: operators are told so, and have no definitions.

ALTER TABLE unanimity.saga_definitions ADD COLUMN pivot text;
