// A small line of what a number was lately. It is drawn beside the number itself, so it says nothing to a screen reader.

interface SparklineProps {
  /** Oldest first; null where it was not known. */
  values: readonly (number | null)[];
  /** What reaches the top, unless a value is greater. */
  full: number;
  /** How many values the whole width has: a line that has just begun stands at the right. */
  length: number;
}

const width = 48;
const height = 16;

export function Sparkline({ values, full, length }: SparklineProps) {
  const top = Math.max(full, ...values.map((value) => value ?? 0));
  const first = length - values.length;
  const points = values.flatMap((value, index) => {
    if (value === null) return [];
    const x = ((first + index) / (length - 1)) * width;
    return [`${x.toFixed(1)},${(height - 1 - (value / top) * (height - 2)).toFixed(1)}`];
  });
  return (
    <svg className="sparkline" width={width} height={height} viewBox={`0 0 ${width} ${height}`} aria-hidden>
      {points.length > 1 && <polyline points={points.join(' ')} />}
    </svg>
  );
}
