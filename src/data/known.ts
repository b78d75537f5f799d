/**
 * Datasets of the field by short names, for `grpo data download`: where they are, whose they are, and under which licence.
 * Only that: the rows are the hub's.
 */

export interface KnownDataset {
  readonly id: string;
  readonly config: string | null;
  /** Title, authors and paper. */
  readonly title: string;
  readonly licence: string;
}

export const knownDatasets: Readonly<Record<string, KnownDataset>> = {
  gsm8k: {
    id: "openai/gsm8k",
    config: "main",
    title: "GSM8K, Cobbe et al. 2021 (arXiv 2110.14168)",
    licence: "mit",
  },
  math: {
    id: "DigitalLearningGmbH/MATH-lighteval",
    config: "default",
    title: "MATH, Hendrycks et al. 2021 (arXiv 2103.03874), 7,500 problems to train on and 5,000 to test",
    licence: "mit",
  },
  math500: {
    id: "HuggingFaceH4/MATH-500",
    config: null,
    title: "MATH-500, Lightman et al. 2023 (arXiv 2305.20050): 500 problems of MATH's test split",
    licence: "mit",
  },
};
