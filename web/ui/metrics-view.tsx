// Plots of metrics with a choice of how far back they reach, from live seconds to two years. Zooming asks the daemon for
// finer steps.
import { Button, Group, SegmentedControl, SimpleGrid, Stack } from '@mantine/core';
import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { type Metrics } from '../../src/api/metrics.ts';
import { useText, type TextKey } from '../i18n/language.ts';
import { Failure } from './failure.tsx';
import { Plot } from './plot.tsx';
import { Loading } from './loading.tsx';

export interface MetricsPlot<Name extends string> {
  title: string;
  lines: readonly { series: Name; label: string; color: string }[];
  format: (value: number) => string;
  atLeast?: number;
}

interface MetricsViewProps<Name extends string> {
  queryKey: readonly string[];
  read: (query: { from: string; to: string }) => Promise<Metrics<Name>>;
  plots: readonly MetricsPlot<Name>[];
}

const reaches: readonly (readonly [TextKey, number])[] = [
  ['metrics.5min', 300],
  ['metrics.1h', 3600],
  ['metrics.1d', 86_400],
  ['metrics.7d', 604_800],
  ['metrics.30d', 2_592_000],
  ['metrics.2y', 63_072_000],
];

/** How often the shortest reach is read again, milliseconds; longer ones seldomer. */
const liveMs = 2000;

export function MetricsView<Name extends string>({ queryKey, read, plots }: MetricsViewProps<Name>) {
  const t = useText();
  const [reachS, setReach] = useState(300);
  const [zoom, setZoom] = useState<{ from: number; to: number } | null>(null);
  const { data, error, refetch } = useQuery({
    queryKey: [...queryKey, 'metrics', reachS, zoom],
    queryFn: () => {
      const to = zoom?.to ?? Date.now() / 1000;
      const from = zoom?.from ?? to - reachS;
      return read({ from: new Date(from * 1000).toISOString(), to: new Date(to * 1000).toISOString() });
    },
    placeholderData: keepPreviousData,
    refetchInterval: zoom === null ? Math.max(liveMs, (reachS / 300) * 1000) : false,
  });
  const begin = data === undefined ? 0 : Date.parse(data.from) / 1000;
  const times = data === undefined ? [] : Array.from({ length: data.count }, (_, index) => begin + index * data.stepS);
  return (
    <Stack gap="md">
      <Group gap="xs">
        <SegmentedControl
          size="xs"
          aria-label={t('metrics.reach')}
          value={String(reachS)}
          onChange={(value) => {
            setZoom(null);
            setReach(Number(value));
          }}
          data={reaches.map(([label, seconds]) => ({ value: String(seconds), label: t(label) }))}
        />
        {zoom !== null && (
          <Button size="xs" variant="default" onClick={() => setZoom(null)}>
            {t('metrics.zoom-out')}
          </Button>
        )}
      </Group>
      {error !== null && <Failure failure={error} onRetry={() => void refetch()} />}
      {data === undefined ? (
        error === null && <Loading />
      ) : (
        <SimpleGrid cols={{ base: 1, lg: 2 }}>
          {plots.map((plot) => (
            <Plot
              key={plot.title}
              title={plot.title}
              times={times}
              lines={plot.lines.map(({ series, label, color }) => ({ label, color, points: data.series[series] }))}
              format={plot.format}
              onZoom={(from, to) => setZoom({ from, to })}
              {...(plot.atLeast === undefined ? {} : { atLeast: plot.atLeast })}
            />
          ))}
        </SimpleGrid>
      )}
    </Stack>
  );
}
