// Links inside the console: ordinary addresses, so that they can be opened in a new tab, followed without loading the page.
import { Anchor, type AnchorProps } from '@mantine/core';
import { useParams, useRouter } from '@tanstack/react-router';
import { type MouseEvent, type ReactNode } from 'react';

/** Goes to an address of the console. */
export function useGo(): (href: string) => void {
  const router = useRouter();
  return (href) => router.history.push(href);
}

/** A part of the page's address: `vm` of /vms/$vm. */
export function useParam(name: string): string {
  const params: Readonly<Record<string, string>> = useParams({ strict: false });
  return params[name] ?? '';
}

/** What an <a> needs to be followed without loading the page. */
export function useLinkTo(): (href: string) => { href: string; onClick: (event: MouseEvent) => void } {
  const go = useGo();
  return (href) => ({
    href,
    onClick: (event) => {
      if (event.defaultPrevented || event.button !== 0) return;
      if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      go(href);
    },
  });
}

/** A link in a text. */
export function TextLink({
  href,
  children,
  onFollow,
  ...rest
}: AnchorProps & { href: string; children: ReactNode; onFollow?: () => void }) {
  const linkTo = useLinkTo();
  const { onClick } = linkTo(href);
  return (
    <Anchor
      inherit
      c="var(--lodge-accent-text)"
      {...rest}
      href={href}
      onClick={(event) => {
        onFollow?.();
        onClick(event);
      }}
    >
      {children}
    </Anchor>
  );
}
