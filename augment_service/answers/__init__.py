"""The parts of a model's answer: its lines, its pairs of question and answer, its stock phrases, their verdicts."""
