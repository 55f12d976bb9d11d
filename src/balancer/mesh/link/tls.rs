//! What the holders of the cluster key know each other by.
//!
//! The key pair of a certificate authority (Ed25519) is derived from the cluster key, so every holder
//! of the key has the same authority, and nobody has to hand out certificates. Each node makes a key
//! pair of its own when it starts, certifies it with the authority, and takes only peers that are
//! certified likewise, on both sides of a connection.

use std::{fmt, sync::Arc};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, date_time_ymd,
};
use ring::hkdf;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        client::{Resumption, VerifierBuilderError},
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
        server::WebPkiClientVerifier,
        version::TLS13,
    },
};

/// The name in every node's certificate. Which node it is, the calls themselves say.
pub(in crate::balancer::mesh) const DOMAIN: &str = "node.mesh.srs-proxy.internal";
/// The name of the authority.
const AUTHORITY: &str = "srs-proxy mesh";
/// Separates the keys that are derived from the cluster key for different ends (HKDF, RFC 5869).
const LABEL: &[u8] = b"srs-proxy mesh: gRPC certificate authority, Ed25519, version 1";
/// What comes before the seed in a PKCS #8 document of an Ed25519 key (RFC 8410, section 7).
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The only protocol that is spoken over TLS (RFC 7540, section 3.3).
const ALPN: &[u8] = b"h2";

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[error("the certificates of the mesh cannot be made from the cluster key: {0}")]
pub struct CredentialsError(String);

/// A node's certificate, and the authorities that its peers are certified by. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    domain: ServerName<'static>,
    certificate: CertificateDer<'static>,
    secrets: hkdf::Prk,
}

impl Credentials {
    /// Derives the authority of `key`, has it certify a fresh key pair, and trusts it. With
    /// `previous`, its authority is trusted as well. To change the key while nodes run, restart each
    /// three times: with the new key as the previous one, with the two exchanged, and with the new one
    /// alone.
    pub fn derive(key: &[u8], previous: Option<&[u8]>) -> Result<Self, CredentialsError> {
        let authority = authority(key)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).map_err(failed)?;
        if let Some(previous) = previous {
            roots.add(self::authority(previous)?.der().clone()).map_err(failed)?;
        }
        let roots = Arc::new(roots);
        let (chain, private) = leaf(&authority)?;
        let certificate = chain.first().cloned().ok_or_else(|| failed("no certificate"))?;
        let provider = Arc::new(default_provider());

        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), private.clone_key())
            .map_err(failed)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        // Connections are few and long; resumption would only be another way in.
        client.resumption = Resumption::disabled();

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error: VerifierBuilderError| failed(error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(failed)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;

        Ok(Self {
            connector: Arc::new(client).into(),
            acceptor: Arc::new(server).into(),
            domain: ServerName::try_from(DOMAIN).map_err(failed)?,
            certificate,
            secrets: secrets(key),
        })
    }

    /// The same for QUIC, for peers that have `protocol` (ALPN) in common.
    pub fn quic(&self, protocol: &[u8]) -> Result<(Arc<QuicClientConfig>, Arc<QuicServerConfig>), CredentialsError> {
        let mut client = ClientConfig::clone(self.connector.config());
        client.alpn_protocols = vec![protocol.to_vec()];
        let mut server = ServerConfig::clone(self.acceptor.config());
        server.alpn_protocols = vec![protocol.to_vec()];
        let client = QuicClientConfig::try_from(client).map_err(failed)?;
        let server = QuicServerConfig::try_from(server).map_err(failed)?;
        Ok((Arc::new(client), Arc::new(server)))
    }

    /// Derives a secret for another end from the cluster key.
    pub(in crate::balancer::mesh) fn secret(&self, info: &[&[u8]]) -> Result<[u8; 32], CredentialsError> {
        let mut secret = [0; 32];
        let derived = self.secrets.expand(info, hkdf::HKDF_SHA256).and_then(|derived| derived.fill(&mut secret));
        derived.map_err(failed)?;
        Ok(secret)
    }

    /// The certificate of this node, another one in every run.
    pub(in crate::balancer::mesh) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn connector(&self) -> (&TlsConnector, ServerName<'static>) {
        (&self.connector, self.domain.clone())
    }

    pub(super) const fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

fn secrets(key: &[u8]) -> hkdf::Prk {
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"srs-proxy mesh").extract(key)
}

fn authority(key: &[u8]) -> Result<CertifiedIssuer<'static, KeyPair>, CredentialsError> {
    let mut pkcs8 = [0; PKCS8_ED25519.len() + 32];
    let (prefix, seed) = pkcs8.split_at_mut(PKCS8_ED25519.len());
    prefix.copy_from_slice(&PKCS8_ED25519);
    secrets(key).expand(&[LABEL], hkdf::HKDF_SHA256).and_then(|derived| derived.fill(seed)).map_err(failed)?;
    let pair = KeyPair::try_from(pkcs8.as_slice()).map_err(failed)?;

    let mut params = params(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, pair).map_err(failed)
}

fn leaf(
    authority: &CertifiedIssuer<'static, KeyPair>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CredentialsError> {
    let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
    let mut params = params(vec![DOMAIN.to_owned()])?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&pair, authority).map_err(failed)?;
    Ok((vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(pair.serialize_der()).into()))
}

fn params(domains: Vec<String>) -> Result<CertificateParams, CredentialsError> {
    let mut params = CertificateParams::new(domains).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY);
    // A node whose clock is wrong is a node all the same: the key alone decides.
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(4096, 1, 1);
    Ok(params)
}

fn failed(error: impl fmt::Display) -> CredentialsError {
    CredentialsError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_makes_one_authority_and_another_key_another() {
        let public = |key: &[u8]| authority(key).unwrap().key().public_key_raw().to_vec();
        assert_eq!(public(b"one"), public(b"one"));
        assert_ne!(public(b"one"), public(b"two"));
    }

    #[test]
    fn the_derivation_stays_the_same_from_version_to_version() {
        // Computed apart from this program: HKDF-SHA256 (RFC 5869), then Ed25519 (RFC 8032).
        let expected = [
            0x66, 0xb0, 0x22, 0x90, 0x59, 0xbb, 0xd8, 0xf5, 0xa0, 0xab, 0xd5, 0xa9, 0x5c, 0x07, 0xcb, 0x00, 0x25, 0x07,
            0xf9, 0x9c, 0xa1, 0xde, 0xe0, 0x6e, 0x1a, 0xd7, 0xf5, 0xda, 0xe6, 0xac, 0x77, 0xd8,
        ];
        assert_eq!(authority(&[7; 32]).unwrap().key().public_key_raw(), expected);
    }

    #[test]
    fn every_start_makes_a_key_pair_of_its_own() {
        let authority = authority(b"one").unwrap();
        assert_ne!(leaf(&authority).unwrap().1.secret_der(), leaf(&authority).unwrap().1.secret_der());
    }

    #[test]
    fn credentials_show_no_secrets() {
        assert_eq!(format!("{:?}", Credentials::derive(b"one", Some(b"two")).unwrap()), "Credentials(***)");
    }
}
