// How a build tells where it is.

export interface BuildProgress {
  /** What it does now, for people: "downloading Debian packages". */
  step: string;
  /** 0 to 100, never falling. */
  percent: number;
}

export type OnBuildProgress = (progress: BuildProgress) => void;
