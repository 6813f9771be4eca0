// The application: theme, queries, who has signed in, and the pages by their addresses.
import { MantineProvider } from '@mantine/core';
import { QueryClientProvider } from '@tanstack/react-query';
import { RouterProvider } from '@tanstack/react-router';
import { Suspense, useEffect, useState } from 'react';
import { lazyPart } from '../data/part.ts';
import { checkSession, useSignIn } from '../data/client.ts';
import { follow } from '../data/live.ts';
import { queryClient } from '../data/queries.ts';
import { signInByLink } from '../session/sign-in-link.ts';
import { router } from './router.ts';
import { theme, variables } from './theme.ts';
import { startToasts } from './toasts.ts';
import { Loading } from '../ui/loading.tsx';

// Needed by few, or a moment later: not part of what is loaded first.
const SignInPage = lazyPart(async () => (await import('../session/sign-in-page.tsx')).SignInPage);
const SignInAgain = lazyPart(async () => (await import('../session/sign-in-again.tsx')).SignInAgain);

/** How long until a daemon that does not answer is asked again, milliseconds. */
const retryMs = 2000;

export function App() {
  return (
    <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto">
      <QueryClientProvider client={queryClient}>
        <Gate />
      </QueryClientProvider>
    </MantineProvider>
  );
}

/** Pages for who has signed in, and for others the way to. */
function Gate() {
  const signIn = useSignIn();
  const [linkFailure, setLinkFailure] = useState<unknown>(null);
  const [away, setAway] = useState<unknown>(null);
  const [isOpening, setOpening] = useState(() => signInByLink() !== null);

  useEffect(() => {
    const byLink = signInByLink();
    if (byLink === null) return;
    byLink.catch(setLinkFailure).finally(() => setOpening(false));
  }, []);
  useEffect(() => {
    if (signIn.state !== 'checking' || isOpening) return undefined;
    let timer: ReturnType<typeof setTimeout>;
    const check = (): void => {
      checkSession().then(
        () => setAway(null),
        (failure: unknown) => {
          setAway(failure);
          timer = setTimeout(check, retryMs);
        },
      );
    };
    check();
    return () => clearTimeout(timer);
  }, [signIn.state, isOpening]);
  const isIn = signIn.state === 'signed-in';
  useEffect(() => {
    if (!isIn) return undefined;
    const end = new AbortController();
    void follow(end.signal);
    const endToasts = startToasts();
    return () => {
      end.abort();
      endToasts();
    };
  }, [isIn]);

  if (signIn.state === 'signed-out' || signIn.state === 'checking') {
    if (isOpening || (signIn.state === 'checking' && away === null)) {
      return <Loading m="xl" />;
    }
    return (
      <Suspense>
        <SignInPage failure={linkFailure ?? away} />
      </Suspense>
    );
  }
  return (
    <>
      <RouterProvider router={router} />
      <Suspense>{signIn.state === 'expired' && <SignInAgain />}</Suspense>
    </>
  );
}
